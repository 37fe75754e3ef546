/** The format on the disk: records, the count of their saves, and formats that this version does not read. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import Database from 'libsql';
import { checkDatabase } from '../../../daemon/store/check.ts';
import { openDataDir, readHighWaterMark } from '../../../daemon/store/data-dir.ts';
import { crcOf } from '../../../daemon/store/integrity.ts';
import { restore } from '../../../daemon/store/restore.ts';
import { edit } from '../../helpers/crash/damage.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../../helpers/daemon.ts';
import { fingerprint, openStore, putOf, readStore, tokensOf } from '../../helpers/store.ts';

const RECORDS = [
  { kind: 'conflict', key: 'k', body: '{}' },
  { kind: 'identity', key: 'vm-1', body: '{"token":"1"}' },
] as const;

test('records are saved, replaced and removed with heartbeats', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveHeartbeats([], 1, [{ kind: 'identity', key: 'vm-1', body: '{}' }, ...RECORDS]);
  await store.saveHeartbeats([], 2, [{ kind: 'identity', key: 'gone', body: '{}' }]);
  await store.saveHeartbeats([], 3, [{ kind: 'identity', key: 'gone', body: undefined }]);
  await store.close();
  assert.deepEqual((await readStore(dir)).records, RECORDS);
});

test('changes of tokens and of VMs are committed in the order of the calls', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const token = (body: string | undefined) => [{ kind: 'token', key: 'ops', body }] as const;
  const settled: string[] = [];
  await Promise.all([
    store.commit(putOf({ id: 'vm-1', revision: 1 })).then(() => settled.push('vm-1')),
    store.commit(tokensOf(2, token('{"n":1}'))).then(() => settled.push('first')),
    store.commit(tokensOf(3, [...token(undefined), ...RECORDS])).then(() => settled.push('second')),
    store.commit(putOf({ id: 'vm-2', revision: 4 })).then(() => settled.push('vm-2')),
  ]);
  assert.deepEqual(settled, ['vm-1', 'first', 'second', 'vm-2']);
  const { revision: marked, saves } = readHighWaterMark(openDataDir(dir))!;
  assert.deepEqual([marked, saves], [4, 2]);
  await store.close();
  const { vms, revision, records } = await readStore(dir);
  assert.deepEqual([vms.length, revision, records], [2, 4, RECORDS]);
});

test('records fail together with the changes of their group, and leave no trace', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  // The first call makes a group of its own. The journal takes each revision once, so the second group fails.
  const outcomes = await Promise.allSettled([
    store.commit(tokensOf(2, RECORDS)),
    store.commit(tokensOf(3, [{ kind: 'token', key: 'ops', body: '{}' }])),
    store.commit(putOf({ id: 'b', revision: 1 })),
  ]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'rejected'],
  );
  await store.commit(putOf({ id: 'c', revision: 3 }));
  await store.close();
  const { vms, records } = await readStore(dir);
  assert.deepEqual([vms.map(({ id }) => id), records], [['a', 'c'], RECORDS]);
});

test('saves are counted if they contain records, and the high-water mark follows', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const saves = () => readHighWaterMark(openDataDir(dir))?.saves;
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

test('a record that fails its checksum is refused', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveHeartbeats([], 1, RECORDS);
  await store.close();
  await edit(dir, `UPDATE records SET body = '{"token":"2"}' WHERE kind = 'identity'`);
  await assert.rejects(readStore(dir), { code: 'STORE_DAMAGED', message: /identity record of "vm-1"/ });
});

test('a database of another program is refused and unchanged, whatever its version', async (t) => {
  const dir = tempDir(t);
  const foreign = new Database(join(dir, 'registry.db'));
  foreign.exec('CREATE TABLE theirs (a); PRAGMA user_version = 1;');
  foreign.close();
  const before = fingerprint(dir);
  await assert.rejects(readStore(dir), { code: 'STORE_DAMAGED' });
  assert.deepEqual(fingerprint(dir), before);
});

/** Makes a store of schema 1 or 2 by undoing what schema 3 added. */
async function makeOlderStore(t: TestContext, version: 1 | 2, { leaveLog = false } = {}): Promise<string> {
  const dir = join(tempDir(t), 'data');
  const { store, contents } = await openStore(t, dir);
  await store.commit(putOf({ id: 'vm-1', revision: 1 }));
  await store.saveHeartbeats([{ id: 'vm-1', lastSeen: 5, heardAt: 5 }], 5, RECORDS);
  await store.close();
  const { registryId } = contents;
  const dropRecords = version === 1 ? 'DROP TABLE records;' : '';
  await edit(
    dir,
    `ALTER TABLE state DROP COLUMN saves; UPDATE state SET crc = ${crcOf([registryId, 1, 1, 5])}; ${dropRecords}
     PRAGMA user_version = ${version};`,
    { leaveLog },
  );
  writeFileSync(join(dir, 'registry.mark'), JSON.stringify({ registryId, revision: 1, crc: crcOf([registryId, 1]) }));
  return dir;
}

const OLDER = {
  code: 'STORE_OLDER',
  hint: /^nothing was changed; export the VMs with the vreg that wrote it \(vreg export > fleet\.ndjson\)/,
};

for (const version of [1, 2] as const) {
  for (const leaveLog of [false, true]) {
    const name = `a store of schema version ${version}${leaveLog ? ', as kill -9 leaves it,' : ''}`;
    test(`${name} is refused by a start, a check and a restore, and not one byte changes`, async (t) => {
      const dir = await makeOlderStore(t, version, { leaveLog });
      assert.equal(existsSync(join(dir, 'registry.db-wal')), leaveLog);
      const database = join(dir, 'registry.db');
      for (const hasMark of [true, false]) {
        if (!hasMark) rmSync(join(dir, 'registry.mark'));
        const before = fingerprint(dir);
        const reason = hasMark
          ? /registry\.mark was written by an older vreg: it does not count saves/
          : /schema version/;
        await assert.rejects(readStore(dir), { ...OLDER, message: reason });
        await assert.rejects(checkDatabase(openDataDir(dir)), { ...OLDER, message: reason });
        const target = openDataDir(join(tempDir(t), 'target'));
        await assert.rejects(restore(target.path, database), { ...OLDER, message: /^cannot restore .*registry\.db: / });
        assert.deepEqual(readdirSync(target.path), []);
        assert.deepEqual(fingerprint(dir), before);
      }
      await assert.rejects(readStore(dir), {
        message: `${database} was written by an older vreg: it has schema version ${version}; this vreg reads version 3 or 4`,
      });
    });
  }
}

test('a store of an older schema can be replaced by a backup, and is kept unchanged beside it', async (t) => {
  const dir = await makeOlderStore(t, 2);
  const backup = join(tempDir(t), 'backup.db');
  const { store } = await openStore(t, join(tempDir(t), 'data'));
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.backup(backup);
  const before = fingerprint(dir);
  const { kept } = await restore(dir, backup);
  assert.deepEqual(
    (await readStore(dir)).vms.map(({ id }) => id),
    ['a'],
  );
  assert.deepEqual(Object.values(fingerprint(kept!)), Object.values(before));
});

test('the daemon and vreg daemon restore exit with 1 on a store of an older schema', async (t) => {
  const dir = await makeOlderStore(t, 2);
  const before = fingerprint(dir);
  const target = join(tempDir(t), 'target');
  for (const args of [
    ['--port', '0', '--data-dir', dir],
    ['restore', join(dir, 'registry.db'), '--data-dir', target, '--yes'],
  ]) {
    const { code, stdout, stderr } = await run(PROGRAM, [...ENTRY, 'daemon', ...args], {
      env: cleanEnv(tempDir(t)),
    });
    assert.deepEqual([code, stdout], [1, ''], stderr);
    assert.match(stderr, /registry\.mark was written by an older vreg: .*\nhint: nothing was changed; export the VMs /);
  }
  assert.deepEqual(fingerprint(dir), before);
});
