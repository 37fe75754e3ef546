import assert from 'node:assert/strict';
import test from 'node:test';
import { waitExceededBy } from './event-loop.ts';

const SECOND = 1000;

for (const [what, blocks, wait] of [
  ['no block', [], 0],
  ['one block that is shorter than 1 % of the time', [50], 0],
  ['one block', [150], 50],
  ['a long block among many short ones', [150, ...Array.from({ length: 1000 }, () => 1)], 50],
  ['two equal blocks', [100, 100], 50],
  ['two blocks that both make requests wait', [60, 100], 30],
  ['blocks all the time', Array.from({ length: 100 }, () => 100), 99],
] as const)
  test(`99 % of the requests of 10 s wait for at most ${wait} ms with ${what}`, () =>
    assert.equal(waitExceededBy(0.01, { time: 10 * SECOND, blocks }), wait));
