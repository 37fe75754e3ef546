import test from 'node:test';
import { newWriters } from '../helpers/crash/crash.ts';
import { crashOver } from '../helpers/crash/crash-run.ts';
import { randomOf } from '../helpers/random.ts';

/** Together with the kills in `npm test`, which CI runs twice, more than a hundred. */
const KILLS = 100;

test(`after each of ${KILLS} kills, all changes acknowledged to 16 writers are there, none is partial, and no revision is missing`, async (t) => {
  const random = randomOf(t);
  const { acknowledged, early } = await crashOver(t, KILLS, newWriters(16, random), random);
  t.diagnostic(`${acknowledged} changes were acknowledged; ${early} kills came before the daemon served requests`);
});
