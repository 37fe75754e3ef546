import test from 'node:test';
import { newWriters } from '../helpers/crash.ts';
import { crashOver } from '../helpers/crash-run.ts';
import { randomOf } from '../helpers/random.ts';

test('all that was acknowledged to 16 writers is there after each of 80 kills, and nothing half', async (t) => {
  const random = randomOf(t);
  const acknowledged = await crashOver(t, 80, newWriters(16, random), random);
  t.diagnostic(`${acknowledged} changes were acknowledged`);
});
