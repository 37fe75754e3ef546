/** Explains answers: why `discover` returns a VM, whether an answer may be outdated, and the state of the fleet in one line. */
import type { Why } from '../../src/protocol/api.ts';
import { formatExactDuration } from '../../src/protocol/duration.ts';
import type { Clock } from '../clock.ts';
import type { Registry } from './registry.ts';
import type { VmRecord } from './vm-record.ts';
import { Snapshot, uncertaintyOf } from './vm-snapshot.ts';

/** Explains why `discover` returns or omits a VM. */
export function explain(registry: Registry, entry: VmRecord): Why {
  const { id, role, status } = entry;
  // In listening time, like the lease, so the two can be compared.
  const silence = formatExactDuration(registry.clock.listening() - entry.heardAt);
  const lease = `the lease is ${formatExactDuration(registry.staleAfter)}`;
  const lastSeen = `last seen at ${entry.lastSeen}, ${silence} of listening time ago`;
  const reasons: Why['reasons'] = [];
  if (status !== 'running') reasons.push({ code: status, message: `it is declared ${status}` });
  if (registry.isStale(entry)) reasons.push({ code: 'stale', message: `it is stale: ${lastSeen}; ${lease}` });
  if (entry.fault !== undefined)
    reasons.push({ code: 'invalid', message: `scripts could not use it safely: ${entry.fault}` });
  const offered = reasons.length === 0;
  const suspect = entry.isSuspect
    ? '; it is suspect: it fell silent together with many other VMs and has one more lease'
    : '';
  const because = offered
    ? `it is running and was ${lastSeen}; ${lease}${suspect}`
    : reasons.map(({ message }) => message).join('; ');
  const isDisputed = registry.conflicts.all.some((conflict) => conflict.id === id && conflict.state === 'open');
  const dispute = isDisputed ? '; another incarnation claims to be this VM: see vreg conflicts' : '';
  return {
    id,
    offered,
    summary: `discover ${role} ${offered ? 'offers' : 'does not offer'} ${id}: ${because}${dispute}`,
    reasons,
  };
}

/**
 * The state of the fleet in one line, such as `12 VMs, 1 stale, 3 suspect`. Zero counts are omitted, except the number of VMs.
 */
export function summarize(registry: Registry): string {
  const { vms, stale, suspect } = registry.counts;
  const parts = [`${vms} ${vms === 1 ? 'VM' : 'VMs'}`];
  if (stale > 0) parts.push(`${stale} stale`);
  if (suspect > 0) parts.push(`${suspect} suspect`);
  return parts.join(', ');
}

/** An answer may include dead VMs, because the registry could not have received their heartbeats. */
export interface Warming {
  /** Seconds until every VM in the answer has sent a heartbeat or become stale. */
  seconds: number;
  /** Number of VMs that are returned only because they fell silent in a mass loss. */
  suspects: number;
}

/**
 * @param entries the VMs in the answer
 * @param lease milliseconds of listening time
 * @returns undefined if every running VM of the answer has certainly sent a heartbeat since the last gap in listening time,
 *   or had a full lease since then
 */
export function warmingOf(entries: Iterable<VmRecord> | Snapshot, clock: Clock, lease: number): Warming | undefined {
  const now = clock.listening();
  const certainFrom = clock.lastGap()?.certainFrom ?? Number.NEGATIVE_INFINITY;
  const horizon = now - lease;
  const lists =
    entries instanceof Snapshot
      ? entries.parts.map((part) => part.uncertainty(certainFrom, now, horizon))
      : [uncertaintyOf(entries, certainFrom, horizon)];
  let until = Number.NEGATIVE_INFINITY;
  let suspects = 0;
  for (const uncertainty of lists) {
    until = Math.max(until, uncertainty.leaseFrom + lease);
    suspects += uncertainty.suspects;
  }
  // At least one second, because 0 would mean that the answer is reliable.
  return until === Number.NEGATIVE_INFINITY
    ? undefined
    : { seconds: Math.max(1, Math.ceil((until - now) / 1000)), suspects };
}
