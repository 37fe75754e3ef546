import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import Database from 'libsql';
import { openDataDir, readMark } from '../../../daemon/store/data-dir.ts';
import { crcOf } from '../../../daemon/store/integrity.ts';
import { edit } from '../../helpers/crash/damage.ts';
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

/** Makes of a data dir that is closed what an earlier version had left. */
async function setBack(dir: string, version: 1 | 2): Promise<void> {
  const { registryId, revision, vms, listened } = await readStore(dir);
  await edit(
    dir,
    `ALTER TABLE state DROP COLUMN saves; UPDATE state SET crc = ${crcOf([registryId, revision, vms.length, listened])};
     ${version === 1 ? 'DROP TABLE records;' : ''} PRAGMA user_version = ${version};`,
  );
  const mark = { registryId, revision, crc: crcOf([registryId, revision]) };
  writeFileSync(join(dir, 'registry.mark'), JSON.stringify(mark));
}

for (const [version, records] of [
  [1, []],
  [2, RECORDS],
] as const) {
  test(`the database and the mark of version ${version} are taken over, with all that they hold`, async (t) => {
    const dir = tempDir(t);
    const { store } = await openStore(t, dir);
    await store.commit(putOf({ id: 'vm-1', revision: 1 }));
    await store.saveBeats([{ id: 'vm-1', lastSeen: 5, heardAt: 5 }], 5, RECORDS);
    await store.close();
    await setBack(dir, version);
    const upgraded = await openStore(t, dir);
    assert.deepEqual([upgraded.contents.vms.length, upgraded.contents.records], [1, records]);
    await upgraded.store.saveBeats([], 6, [{ kind: 'token', key: 'new', body: '{}' }]);
    await upgraded.store.close();
    assert.equal((await readStore(dir)).records.length, records.length + 1);
    assert.deepEqual(readMark(openDataDir(dir))?.saves, 1);
    await setBack(dir, version);
    assert.equal((await readStore(dir)).revision, 1, 'as an older vreg, it has no saves to lose');
  });
}

test('saves are counted when they carry records, and the mark goes along', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const saves = () => readMark(openDataDir(dir))?.saves;
  await store.commit(putOf({ id: 'vm-1', revision: 1 }));
  await store.saveBeats([{ id: 'vm-1', lastSeen: 1, heardAt: 1 }], 1);
  assert.equal(saves(), 0);
  await store.saveBeats([{ id: 'vm-1', lastSeen: 2, heardAt: 2 }], 2, RECORDS);
  assert.equal(saves(), 1);
  await store.saveBeats([], 3, [{ kind: 'conflict', key: 'k', body: undefined }]);
  await store.saveBeats([], 4);
  assert.equal(saves(), 2);
  await store.close();
  await readStore(dir);
  assert.equal(saves(), 2, 'a start keeps the count');
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
  tamper('PRAGMA user_version = 4');
  await assert.rejects(readStore(dir), /schema version 4/);
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
