import test from 'node:test';
import { newWriters } from '../helpers/crash/crash.ts';
import { crashOver } from '../helpers/crash/crash-run.ts';
import { randomOf } from '../helpers/random.ts';

/** More than a hundred with those of `npm test`, which CI runs twice. */
const KILLS = 100;

test(`all that was acknowledged to 16 writers is there after each of ${KILLS} kills, nothing half, and no revision missing`, async (t) => {
  const random = randomOf(t);
  const { acknowledged, early } = await crashOver(t, KILLS, newWriters(16, random), random);
  t.diagnostic(`${acknowledged} changes were acknowledged; ${early} kills came before the daemon could serve`);
});
