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
  await store.saveHeartbeats([], 1, [{ kind: 'identity', key: 'vm-1', body: '{}' }, ...RECORDS]);
  await store.saveHeartbeats([], 2, [{ kind: 'identity', key: 'gone', body: '{}' }]);
  await store.saveHeartbeats([], 3, [{ kind: 'identity', key: 'gone', body: undefined }]);
  await store.close();
  assert.deepEqual((await readStore(dir)).records, RECORDS);
});

test('records and changes are committed in the order of the calls, and records have no revision', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const token = (body: string | undefined) => [{ kind: 'token', key: 'ops', body }] as const;
  const settled: string[] = [];
  await Promise.all([
    store.commit(putOf({ id: 'vm-1', revision: 1 })).then(() => settled.push('vm-1')),
    store.commitRecords(token('{"n":1}')).then(() => settled.push('first')),
    store.commitRecords([...token(undefined), ...RECORDS]).then(() => settled.push('second')),
    store.commit(putOf({ id: 'vm-2', revision: 2 })).then(() => settled.push('vm-2')),
  ]);
  assert.deepEqual(settled, ['vm-1', 'first', 'second', 'vm-2']);
  assert.equal(readMark(openDataDir(dir))?.saves, 2);
  await store.close();
  const { vms, revision, records } = await readStore(dir);
  assert.deepEqual([vms.length, revision, records], [2, 2, RECORDS]);
});

test('records fail together with the changes of their group, and leave no trace', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  // The first call makes a group of its own. The journal takes each revision once, so the second group fails.
  const outcomes = await Promise.allSettled([
    store.commitRecords(RECORDS),
    store.commitRecords([{ kind: 'token', key: 'ops', body: '{}' }]),
    store.commit(putOf({ id: 'b', revision: 1 })),
  ]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'rejected'],
  );
  await store.commit(putOf({ id: 'c', revision: 2 }));
  await store.close();
  const { vms, records } = await readStore(dir);
  assert.deepEqual([vms.map(({ id }) => id), records], [['a', 'c'], RECORDS]);
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
    await store.saveHeartbeats([{ id: 'vm-1', lastSeen: 5, heardAt: 5 }], 5, RECORDS);
    await store.close();
    await setBack(dir, version);
    const upgraded = await openStore(t, dir);
    assert.deepEqual([upgraded.contents.vms.length, upgraded.contents.records], [1, records]);
    await upgraded.store.saveHeartbeats([], 6, [{ kind: 'token', key: 'new', body: '{}' }]);
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
  await store.saveHeartbeats([{ id: 'vm-1', lastSeen: 1, heardAt: 1 }], 1);
  assert.equal(saves(), 0);
  await store.saveHeartbeats([{ id: 'vm-1', lastSeen: 2, heardAt: 2 }], 2, RECORDS);
  assert.equal(saves(), 1);
  await store.saveHeartbeats([], 3, [{ kind: 'conflict', key: 'k', body: undefined }]);
  await store.saveHeartbeats([], 4);
  assert.equal(saves(), 2);
  await store.close();
  await readStore(dir);
  assert.equal(saves(), 2, 'a start keeps the count');
});

test('a record that fails its checksum, and a database of a later version, are refused', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveHeartbeats([], 1, RECORDS);
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
