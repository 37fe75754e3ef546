/**
 * Heartbeats as columns, in which form they are sent to the store worker. Cloning an object per heartbeat would block the event
 * loop four times as long: 40 ms for 100,000 heartbeats.
 */
import type { StoredHeartbeat } from './store.ts';

export interface HeartbeatBatch {
  ids: readonly string[];
  /** Heartbeat n: `[2n]` is lastSeen, `[2n + 1]` is heardAt. */
  times: Float64Array;
}

export function packHeartbeats(heartbeats: readonly StoredHeartbeat[]): HeartbeatBatch {
  const times = new Float64Array(2 * heartbeats.length);
  const ids = heartbeats.map(({ id, lastSeen, heardAt }, n) => {
    times[2 * n] = lastSeen;
    times[2 * n + 1] = heardAt;
    return id;
  });
  return { ids, times };
}

export function unpackHeartbeats({ ids, times }: HeartbeatBatch): StoredHeartbeat[] {
  return ids.map((id, n) => ({ id, lastSeen: times[2 * n]!, heardAt: times[2 * n + 1]! }));
}
