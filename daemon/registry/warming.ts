/** What an answer may have wrong: VMs that it offers and that may be dead, because nobody could have heard of it. */
import type { Clock } from '../clock.ts';
import type { VmRecord } from './vm-record.ts';

export interface Warming {
  /** Seconds after which every VM of the answer has been heard of or is gone. */
  seconds: number;
  /** VMs that are offered only because too many fell silent with them. */
  suspects: number;
}

/**
 * @param entries as they are answered
 * @param lease in milliseconds of listening time
 * @returns undefined when every running VM among them was heard of since the last gap, or has had its lease to be
 */
export function warmingOf(entries: Iterable<VmRecord>, clock: Clock, lease: number): Warming | undefined {
  const now = clock.listening();
  const gap = clock.gapEndedAt();
  const gapMatters = gap !== undefined && now - gap <= lease;
  let until = 0;
  let suspects = 0;
  for (const entry of entries) {
    if (entry.vm.status !== 'running' || entry.leaseFrom < now - lease) continue;
    if (entry.isSuspect) suspects++;
    else if (!gapMatters || entry.life.heardAt > gap) continue;
    until = Math.max(until, entry.leaseFrom + lease);
  }
  // At least one second: what is left is never nothing while there is a doubt.
  return until === 0 ? undefined : { seconds: Math.max(1, Math.ceil((until - now) / 1000)), suspects };
}
