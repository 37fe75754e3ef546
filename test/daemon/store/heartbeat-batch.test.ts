import assert from 'node:assert/strict';
import test from 'node:test';
import { batchesOf, heartbeatsOf } from '../../../daemon/store/heartbeat-batch.ts';

test('heartbeats survive being packed, cloned and unpacked', () => {
  const heartbeats = [
    { id: 'a', lastSeen: 1_800_000_000_000, heardAt: 1234.5678 },
    { id: 'a b', lastSeen: 0, heardAt: 0 },
    ...Array.from({ length: 4000 }, (_, n) => ({ id: `vm-${n}`, lastSeen: n, heardAt: n / 2 })),
  ];
  const batches = [...batchesOf(heartbeats)];
  assert.deepEqual(
    batches.map(({ ids }) => ids.length),
    [2000, 2000, 2],
  );
  assert.deepEqual([...heartbeatsOf(structuredClone(batches))], heartbeats);
  assert.deepEqual([...batchesOf([])], []);
});
