/** Times of signs of life: on both clocks, whether this registry, another replica or another registry has received them. */
import type { Clock } from '../clock.ts';
import type { LastSeen, VmRecord } from './vm-record.ts';

/** Milliseconds by which replicas may know the same sign of life differently, because they exchange seconds. */
const RESOLUTION = 1000;

/** A sign of life that arrives now. */
export function signOfLife(clock: Clock): LastSeen {
  return { lastSeen: clock.now(), heardAt: clock.listening() };
}

/** A sign of life that another replica has received. @param lastSeen wall clock; a future one counts as now */
export function signOfLifeAt(clock: Clock, lastSeen: number): LastSeen {
  return { lastSeen: Math.min(lastSeen, clock.now()), heardAt: clock.listeningAt(lastSeen) };
}

/** An earlier sign of life, which another registry has received. @param lastSeen wall clock; a future one counts as now */
export function earlierSignOfLife(clock: Clock, lastSeen: number): LastSeen {
  const now = signOfLife(clock);
  const age = Math.max(0, now.lastSeen - lastSeen);
  return { lastSeen: now.lastSeen - age, heardAt: now.heardAt - age };
}

/**
 * True if a sign of life that another replica has received is later than the last one that this replica knows. The listening time
 * stands still while heartbeats of other replicas are missing.
 */
export function isLater({ lastSeen, heardAt }: LastSeen, { seen, heardAt: before }: VmRecord): boolean {
  return lastSeen - seen.lastSeen >= RESOLUTION && heardAt >= before;
}

/** The last sign of life of a VM that another replica has changed. @param before the VM that this replica knows */
export function laterSign(clock: Clock, before: VmRecord | undefined, after: VmRecord): LastSeen {
  const seen = signOfLifeAt(clock, after.seen.lastSeen);
  return before && !isLater(seen, before) ? before.seen : seen;
}
