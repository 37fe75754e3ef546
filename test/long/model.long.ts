/** Longer sequences for the model in test/daemon/http/model.test.ts. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { PLANTED } from '../helpers/planted.ts';
import { checkWire } from '../helpers/wire/wire-run.ts';

/** Fixed, so that a failure is reproducible. `VREG_SEED=N` (32 bits) tries another seed. */
const SEED = Number(process.env.VREG_SEED ?? 20_260_103);
const SEEDS = 2;

for (let nth = 0; nth < SEEDS; nth++) {
  test(`long sequences of requests get the responses of the model, and leave its state (${nth + 1} of ${SEEDS})`, async (t) => {
    const seed = (SEED + nth) | 0;
    t.diagnostic(`VREG_SEED=${seed}`);
    await checkWire({ steps: 120, runs: 500, seed });
  });
}

for (const [name, [failure, plant]] of Object.entries(PLANTED)) {
  test(`the model finds a planted bug, whatever the seed: ${name}`, async (t) => {
    t.diagnostic(`VREG_SEED=${SEED}`);
    await assert.rejects(checkWire({ steps: 40, runs: 400, seed: SEED, plant }), failure);
  });
}
