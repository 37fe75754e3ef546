import assert from 'node:assert/strict';
import { copyFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { type Receiver, RegistryDatabase } from '../../../daemon/store/database.ts';
import { StoreBackend } from '../../../daemon/store/worker.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { openStore, putOf } from '../../helpers/store.ts';

test('the database and its log keep their inodes through checkpoints and a backup', async (t) => {
  const dir = openDataDir(tempDir(t));
  const { store } = await openStore(t, dir.path);
  const look = (path: string) => statSync(path, { bigint: true });
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const before = [dir.database, dir.log].map((path) => look(path).ino);
  let revision = 1;
  const metadata = { padding: 'x'.repeat(2000) };
  // Three times the size at which SQLite moves the log into the database and restarts it.
  for (let group = 0; group < 12; group++) {
    const changes = Array.from({ length: 500 }, () => putOf({ id: `vm-${++revision}`, revision, more: { metadata } }));
    await Promise.all(changes.map((change) => store.commit(change)));
  }
  await store.backup(join(dir.path, 'copy.db'));
  await store.commit(putOf({ id: 'b', revision: revision + 1 }));
  assert.deepEqual(
    [dir.database, dir.log].map((path) => look(path).ino),
    before,
  );
  const log = Number(look(dir.log).size);
  assert.ok(Number(look(dir.database).size) > 2 * log, `the log of ${log} bytes was moved into the database`);
});

test('a start fails if the database is replaced while it is loaded', async (t) => {
  const dir = openDataDir(tempDir(t));
  const { store } = await openStore(t, dir.path);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.close();
  const other = `${dir.database}.other`;
  copyFileSync(dir.database, other);
  const { load } = RegistryDatabase.prototype;
  t.mock.method(RegistryDatabase.prototype, 'load', function (this: RegistryDatabase, receiver: Receiver) {
    renameSync(other, dir.database);
    return load.call(this, receiver);
  });
  assert.throws(() => new StoreBackend(dir).handle({ kind: 'open' }), /registry\.db was replaced by another file/);
});

test('a database that is removed during the start is an error, and never a new registry', async (t) => {
  const dir = openDataDir(tempDir(t));
  const { store } = await openStore(t, dir.path);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.close();
  rmSync(dir.database);
  assert.throws(() => new StoreBackend(dir).handle({ kind: 'open' }), /empty, but a revision was acknowledged/);
});
