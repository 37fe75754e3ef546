import assert from 'node:assert/strict';
import test from 'node:test';
import { packHeartbeats, unpackHeartbeats } from '../../../daemon/store/heartbeat-batch.ts';

test('heartbeats survive being packed, cloned and unpacked', () => {
  const heartbeats = [
    { id: 'a', lastSeen: 1_800_000_000_000, heardAt: 1234.5678 },
    { id: 'a b', lastSeen: 0, heardAt: 0 },
  ];
  assert.deepEqual(unpackHeartbeats(structuredClone(packHeartbeats(heartbeats))), heartbeats);
  assert.deepEqual(unpackHeartbeats(packHeartbeats([])), []);
});
