import assert from 'node:assert/strict';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { newWriters } from '../helpers/crash.ts';
import { crashOver, findLosses, listAll, startQuietDaemon, writeAndKill } from '../helpers/crash-run.ts';
import { randomOf } from '../helpers/random.ts';

test('all that was acknowledged to 16 writers is there after each of some kills, and nothing half', async (t) => {
  const random = randomOf(t);
  const acknowledged = await crashOver(t, 6, newWriters(16, random), random);
  t.diagnostic(`${acknowledged} changes were acknowledged`);
});

test('the checker of the test above sees a loss, and the daemon itself sees it, too', async (t) => {
  const random = randomOf(t);
  const writers = newWriters(16, random);
  const first = await startQuietDaemon(t);
  await writeAndKill(first, writers, 200);
  const old = join(first.home, 'old');
  cpSync(first.dataDir, old, { recursive: true });
  const second = await startQuietDaemon(t, first.home);
  for (const writer of writers) writer.adopt(await listAll(second));
  await writeAndKill(second, writers, 200);
  // As a disk does that acknowledges before it writes: the files are those of before, the mark as it was told.
  for (const name of ['registry.db', 'registry.db-wal']) {
    rmSync(join(second.dataDir, name));
    cpSync(join(old, name), join(second.dataDir, name));
  }
  await assert.rejects(
    startQuietDaemon(t, first.home),
    /registry\.db is damaged: it ends at revision \d+, but revision/,
  );
  rmSync(join(second.dataDir, 'registry.mark'));
  const third = await startQuietDaemon(t, first.home);
  assert.notDeepEqual(findLosses(writers, await listAll(third)), []);
});

test('the checker sees a change that is half there', async (t) => {
  const random = randomOf(t);
  const writers = newWriters(4, random);
  const daemon = await startQuietDaemon(t);
  await writeAndKill(daemon, writers, 100);
  const vms = await listAll(await startQuietDaemon(t, daemon.home));
  assert.deepEqual(findLosses(writers, vms), []);
  for (const writer of writers) writer.adopt(vms);
  const [vm, ...rest] = vms;
  assert.equal(findLosses(writers, [{ ...vm!, name: 'half' }, ...rest]).length, 1);
  assert.equal(findLosses(writers, rest).length, 1);
});
