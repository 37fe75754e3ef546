import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import Database from 'libsql';
import { tempDir } from '../../helpers/daemon.ts';
import { openStore, putOf, readStore } from '../../helpers/store.ts';

const RECORDS = [
  { kind: 'conflict', key: 'k', body: '{}' },
  { kind: 'identity', key: 'vm-1', body: '{"token":"1"}' },
] as const;

test('records are kept, replaced and taken away with the beats', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveBeats([], 1, [{ kind: 'identity', key: 'vm-1', body: '{}' }, ...RECORDS]);
  await store.saveBeats([], 2, [{ kind: 'identity', key: 'gone', body: '{}' }]);
  await store.saveBeats([], 3, [{ kind: 'identity', key: 'gone', body: undefined }]);
  await store.close();
  assert.deepEqual((await readStore(dir)).records, RECORDS);
});

test('the database of a version without records is taken over, with all that it holds', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'vm-1', revision: 1 }));
  await store.close();
  const old = new Database(join(dir, 'registry.db'));
  old.exec('DROP TABLE records; PRAGMA user_version = 1;');
  old.close();
  const upgraded = await openStore(t, dir);
  assert.deepEqual([upgraded.contents.vms.length, upgraded.contents.records], [1, []]);
  await upgraded.store.saveBeats([], 1, RECORDS);
  await upgraded.store.close();
  assert.equal((await readStore(dir)).records.length, 2);
});

test('a record that fails its checksum, and a database of a later version, are refused', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveBeats([], 1, RECORDS);
  await store.close();
  const tamper = (sql: string) => {
    const database = new Database(join(dir, 'registry.db'));
    database.exec(sql);
    database.close();
  };
  tamper(`UPDATE records SET body = '{"token":"2"}' WHERE kind = 'identity'`);
  await assert.rejects(readStore(dir), { code: 'STORE_DAMAGED', message: /identity record of "vm-1"/ });
  tamper('PRAGMA user_version = 3');
  await assert.rejects(readStore(dir), /schema version 3/);
});

test('a database that is not ours is refused as it is, whatever version it says it has', async (t) => {
  const dir = tempDir(t);
  const foreign = new Database(join(dir, 'registry.db'));
  foreign.exec('CREATE TABLE theirs (a); PRAGMA user_version = 1;');
  foreign.close();
  await assert.rejects(readStore(dir), { code: 'STORE_DAMAGED' });
  const looked = new Database(join(dir, 'registry.db'));
  t.after(() => looked.close());
  assert.deepEqual(looked.prepare('SELECT name FROM sqlite_schema').raw().all(), [['theirs']]);
  assert.deepEqual(looked.prepare('PRAGMA user_version').raw().all(), [[1]]);
});
