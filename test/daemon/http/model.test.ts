/**
 * Requests of every shape against a model of the wire: each answer is the model's, and so is what is left in the end. A
 * sequence that does not agree is cut down to the few requests that matter. `test/long` does more of the same.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { PLANTED } from '../../helpers/planted.ts';
import { checkWire } from '../../helpers/wire/wire-run.ts';

/** Fixed, so that a failure today is a failure tomorrow; test/long looks elsewhere. */
const SEED = 20_260_102;

test('requests of every route, right and mutated, are answered as the model says, and leave its state', async () => {
  const seen = new Map<number, number>();
  const note = ({ status }: { status: number }) => void seen.set(status, (seen.get(status) ?? 0) + 1);
  await checkWire({ steps: 80, runs: 60, seed: SEED, seen: note });
  // The mutations get through to the rules, and do not end at the door.
  for (const status of [200, 201, 400, 404, 405, 409, 412, 413, 415, 429])
    assert.ok((seen.get(status) ?? 0) > 2, `${status} was seen ${seen.get(status)} times`);
});

test('the model finds a planted bug: a PATCH that ignores the address', async () => {
  // The others are planted in test/long.
  const [says, plant] = PLANTED['a PATCH that ignores the address'];
  await assert.rejects(checkWire({ steps: 40, runs: 200, seed: SEED, plant }), says);
});
