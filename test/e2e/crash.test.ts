import assert from 'node:assert/strict';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { newWriters } from '../helpers/crash/crash.ts';
import {
  crashOver,
  findFaults,
  findGapsFrom,
  findLosses,
  listAll,
  readLeft,
  startQuietDaemon,
  writeAndKill,
} from '../helpers/crash/crash-run.ts';
import { randomOf } from '../helpers/random.ts';

test('after each of several kills, no change acknowledged to 16 writers is lost or partial, and no revision is missing', async (t) => {
  const random = randomOf(t);
  const { acknowledged, early } = await crashOver(t, 3, newWriters(16, random), random);
  t.diagnostic(`${acknowledged} changes were acknowledged; ${early} kills came before the daemon served requests`);
});

test('the checker of the test above finds a loss, and so does the daemon', async (t) => {
  const random = randomOf(t);
  const writers = newWriters(16, random);
  const first = await startQuietDaemon(t);
  await writeAndKill(first, writers, 200);
  const old = join(first.home, 'old');
  cpSync(first.dataDir, old, { recursive: true });
  const second = await startQuietDaemon(t, first.home);
  for (const writer of writers) writer.adopt(await listAll(second));
  await writeAndKill(second, writers, 200);
  // Like a disk that acknowledges before it writes: old files, current mark.
  for (const name of ['registry.db', 'registry.db-wal']) {
    rmSync(join(second.dataDir, name));
    cpSync(join(old, name), join(second.dataDir, name));
  }
  // The daemon checks the saves of identities first, and the old files may lack one of those too.
  await assert.rejects(
    startQuietDaemon(t, first.home),
    /registry\.db is damaged: it (ends at revision \d+, but revision|lacks the last tokens)/,
  );
  rmSync(join(second.dataDir, 'registry.mark'));
  const third = await startQuietDaemon(t, first.home);
  assert.notDeepEqual(findLosses(writers, await listAll(third)), []);
});

test('the checker finds a partial change', async (t) => {
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

test('the checker of the files finds a loss, a gap, an extra revision, a revision of another VM, and a mark that is ahead', async (t) => {
  const random = randomOf(t);
  const writers = newWriters(4, random);
  const daemon = await startQuietDaemon(t);
  await writeAndKill(daemon, writers, 100);
  const left = readLeft(t, daemon.dataDir);
  assert.deepEqual(findFaults(left, writers), []);
  const { vms, revision, journal, mark } = left;
  assert.ok(revision >= 100 && mark > 0 && mark <= revision && vms.length > 0);
  for (const writer of writers) writer.adopt(vms);
  // The first update was acknowledged, because only the last changes may be of unknown outcome.
  const line = journal.findIndex(({ type }) => type === 'updated');
  const [at, ahead] = [journal[line]!.revision, revision + 1];
  const without = journal.toSpliced(line, 1);
  const faultsOf = (wrong: Partial<typeof left>) => findFaults({ ...left, ...wrong }, writers).join('\n');
  assert.match(faultsOf({ vms: vms.slice(1) }), /was acknowledged$/m);
  assert.match(faultsOf({ journal: without }), new RegExp(`^revision ${at} is missing\n.* belongs to undefined$`));
  assert.match(faultsOf({ journal: journal.slice(0, -1) }), new RegExp(`revision ${revision} is missing`));
  assert.match(faultsOf({ journal: journal.slice(1) }), /revision 1 is missing/);
  assert.match(faultsOf({ journal: [...journal, journal[line]!] }), new RegExp(`revision ${at} is a duplicate`));
  const tooMany = [...journal, { ...journal[line]!, revision: ahead }];
  assert.match(faultsOf({ journal: tooMany }), new RegExp(`revision ${ahead} is beyond the current revision`));
  const another = journal.with(line, { ...journal[line]!, id: 'another' });
  assert.match(
    faultsOf({ journal: another }),
    new RegExp(`^revision ${at} was acknowledged for .* belongs to another$`),
  );
  assert.match(faultsOf({ mark: ahead }), /^the mark is at/);
  const received = [7, 8, 10].map((revision) => ({ revision }));
  assert.deepEqual(findGapsFrom(6, received.slice(0, 2)), []);
  assert.equal(findGapsFrom(6, received).length, 1);
});

test('a writer that runs across a restart notices that the next daemon lost a change', async (t) => {
  const random = randomOf(t);
  const writers = newWriters(4, random);
  const first = await startQuietDaemon(t);
  await writeAndKill(first, writers, 100);
  // Another registry, which is empty.
  const { url } = await startQuietDaemon(t);
  const stop = new AbortController();
  t.after(() => stop.abort());
  await assert.rejects(
    Promise.all(writers.map((writer) => writer.runAcrossRestarts({ url }, stop.signal, () => {}))),
    /404/,
  );
});
