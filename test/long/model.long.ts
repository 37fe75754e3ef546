/** More of test/daemon/http/model.test.ts: longer sequences, of a seed that is new in each run. `VREG_SEED=N` repeats one. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { PLANTED } from '../helpers/planted.ts';
import { checkWire } from '../helpers/wire-run.ts';

/** Seconds since the epoch: a seed of fast-check has 32 bits. */
const SEED = Number(process.env.VREG_SEED ?? Math.floor(Date.now() / 1000));
const SEEDS = 4;

for (let nth = 0; nth < SEEDS; nth++) {
  test(`long sequences of requests are answered as the model says, and leave its state (${nth + 1} of ${SEEDS})`, async (t) => {
    const seed = (SEED + nth) | 0;
    t.diagnostic(`VREG_SEED=${seed}`);
    await checkWire({ steps: 120, runs: 500, seed });
  });
}

for (const [name, [says, plant]] of Object.entries(PLANTED)) {
  test(`the model finds a planted bug, whatever the seed: ${name}`, async (t) => {
    t.diagnostic(`VREG_SEED=${SEED}`);
    await assert.rejects(checkWire({ steps: 40, runs: 400, seed: SEED, plant }), says);
  });
}
