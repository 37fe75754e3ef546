import assert from 'node:assert/strict';
import test from 'node:test';
import { isoTime } from '../../../daemon/registry/iso-time.ts';
import { seeded } from '../../helpers/random.ts';

test('a time is formatted as toISOString formats it, whatever was formatted before', () => {
  const random = seeded('times');
  const now = Date.UTC(2026, 10, 29, 23, 59, 58);
  const edges = [0, -1, 59_999, 60_000, now + 1999, now + 2000, now + 0.75, Date.UTC(1969, 0, 1), 8.64e15, -8.64e15];
  const near = Array.from({ length: 1000 }, () => now + random.below(1_000_000));
  const far = Array.from({ length: 1000 }, () => random.below(8e15));
  for (const ms of [...edges, ...near, ...far, ...edges]) assert.equal(isoTime(ms), new Date(ms).toISOString());
});

test('a time that is no time is an error', () => {
  assert.throws(() => isoTime(Number.NaN), RangeError);
});
