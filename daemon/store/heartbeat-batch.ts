/**
 * Heartbeats on their way to the worker. Packed into arrays of a few thousand, they are copied in a fraction of a millisecond per
 * turn of the event loop; copying 100,000 objects at once would block it for 100 ms.
 */
import type { StoredHeartbeat } from './store.ts';

/** Heartbeats per batch. Packing and copying them takes 1 ms. */
const BATCH = 2000;

export interface HeartbeatBatch {
  ids: string[];
  /** Heartbeat n: `[2n]` is lastSeen, `[2n + 1]` is heardAt. */
  times: Float64Array;
}

/** Reads the heartbeats of a batch only when that batch is requested. */
export function* batchesOf(heartbeats: Iterable<StoredHeartbeat>): Generator<HeartbeatBatch> {
  let ids: string[] = [];
  let times = new Float64Array(2 * BATCH);
  for (const { id, lastSeen, heardAt } of heartbeats) {
    times[2 * ids.length] = lastSeen;
    times[2 * ids.length + 1] = heardAt;
    if (ids.push(id) < BATCH) continue;
    yield { ids, times };
    ids = [];
    times = new Float64Array(2 * BATCH);
  }
  if (ids.length > 0) yield { ids, times: times.slice(0, 2 * ids.length) };
}

export function* heartbeatsOf(batches: Iterable<HeartbeatBatch>): Generator<StoredHeartbeat> {
  for (const { ids, times } of batches) {
    for (const [n, id] of ids.entries()) yield { id, lastSeen: times[2 * n]!, heardAt: times[2 * n + 1]! };
  }
}
