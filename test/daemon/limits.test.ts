import assert from 'node:assert/strict';
import test from 'node:test';
import { openStreamLimit, requestTimeout } from '../../daemon/limits.ts';

test('half of the connections may be open streams, and larger bodies have more time to arrive', () => {
  assert.deepEqual([openStreamLimit(10_000), openStreamLimit(3)], [5000, 2]);
  assert.deepEqual([1024, 1024 ** 2, 4 * 1024 ** 2].map(requestTimeout), [30_000, 30_000, 120_000]);
});
