/** Requests of the fleet page that a stream of events causes. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { coalesce } from '../src/page/coalesce.ts';
import { until } from './helpers/until.ts';

test('a burst of calls causes one run at a time, of which the last starts after the last call', async () => {
  const ends: (() => void)[] = [];
  const started: number[] = [];
  let calls = 0;
  const call = coalesce(() => {
    started.push(calls);
    return new Promise((resolve) => ends.push(resolve));
  });
  for (; calls < 100; calls++) call();
  assert.deepEqual(started, [0]);
  ends[0]!();
  await until('the second run', () => started.length === 2);
  assert.deepEqual(started, [0, 100]);
  ends[1]!();
  // The task rests.
  call();
  assert.equal(started.length, 2);
  await until('the third run', () => started.length === 3);
  ends[2]!();
});
