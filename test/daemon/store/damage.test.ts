import assert from 'node:assert/strict';
import {
  closeSync,
  cpSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import Database from 'libsql';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import type { Change } from '../../../daemon/store/store.ts';
import { assertRefused, copyOf, edit, flipOneBit, makeSpecimen, type Specimen } from '../../helpers/crash/damage.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../../helpers/daemon.ts';
import { randomOf } from '../../helpers/random.ts';
import { fingerprint, openStore, putOf, readStore } from '../../helpers/store.ts';

let root: string;
let specimen: Specimen;
before(async () => {
  root = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  specimen = await makeSpecimen(root);
});
after(() => rmSync(root, { recursive: true, force: true }));

test('an intact store opens with all its contents, after a clean stop and after kill -9', async (t) => {
  const { closed, killed, contents } = specimen;
  assert.equal(contents.vms.length, 39);
  assert.ok(statSync(join(killed, 'registry.db-wal')).size > 0, 'the specimen has a log');
  assert.deepEqual(await readStore(copyOf(t, closed)), contents);
  assert.deepEqual(await readStore(copyOf(t, killed)), contents);
});

for (const [file, as, flips] of [
  // test/long/damage.long.ts flips hundreds of bits of these two.
  ['registry.db', 'closed', 8],
  ['registry.db-wal', 'killed', 4],
  ['registry.mark', 'closed', 8],
] as const) {
  test(`a flipped bit in ${file} is an error or harmless, and never a wrong value or a lost change`, async (t) => {
    const random = randomOf(t);
    let refused = 0;
    for (let n = 0; n < flips; n++) if (await flipOneBit(t, { specimen, as, file, random })) refused++;
    t.diagnostic(`${refused} of ${flips} were refused`);
  });
}

test('a damaged index, through which a later change would miss its row, is found', async (t) => {
  const { closed } = specimen;
  const dir = copyOf(t, closed);
  const file = join(dir, 'registry.db');
  const bytes = readFileSync(file);
  const db = new Database(file);
  const index = db.prepare("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_vms_1'").raw().get();
  const size = db.prepare('PRAGMA page_size').raw().get();
  db.close();
  const [[page], [pageSize]] = [index, size] as [[number], [number]];
  const at = bytes.indexOf('vm-7', (page - 1) * pageSize);
  assert.ok(at > 0 && at < page * pageSize);
  bytes.write('vm-x', at);
  writeFileSync(file, bytes);
  rmSync(`${file}-wal`, { force: true });
  rmSync(`${file}-shm`, { force: true });
  await assertRefused(dir, /SQLite reports/);
});

test('a truncated database is refused', async (t) => {
  const { closed } = specimen;
  const { size } = statSync(join(closed, 'registry.db'));
  for (const length of [1, 99, 4096, Math.floor(size / 2), size - 4096]) {
    const dir = copyOf(t, closed);
    truncateSync(join(dir, 'registry.db'), length);
    await assertRefused(dir, /is damaged/);
  }
});

test('a database that is missing or empty beside its mark is refused, with or without its log', async (t) => {
  const { closed, killed } = specimen;
  for (const dir of [copyOf(t, closed), copyOf(t, killed)]) {
    truncateSync(join(dir, 'registry.db'), 0);
    await assertRefused(dir, /missing or empty, but revision 49 was acknowledged/);
    rmSync(join(dir, 'registry.db'));
    await assertRefused(dir, /missing or empty, but revision 49 was acknowledged/);
  }
});

test('a database that SQLite can read but not write is refused at start', async (t) => {
  const { closed } = specimen;
  // Offsets of the format versions needed to write and to read the file.
  for (const at of [18, 19]) {
    const dir = copyOf(t, closed);
    const file = join(dir, 'registry.db');
    const bytes = readFileSync(file);
    bytes[at] = 3;
    writeFileSync(file, bytes);
    await assertRefused(dir, /is damaged/);
  }
});

test('a file that is not the database of a registry is refused', async (t) => {
  const { closed } = specimen;
  const dir = copyOf(t, closed);
  writeFileSync(join(dir, 'registry.db'), 'x'.repeat(10_000));
  await assertRefused(dir, /not a database/);
  rmSync(join(dir, 'registry.db'));
  const db = new Database(join(dir, 'registry.db'));
  db.exec('CREATE TABLE other (a); INSERT INTO other VALUES (1);');
  db.close();
  await assertRefused(dir, /not the database of a vreg registry/);
});

test('a database that lost its log after kill -9 is refused', async (t) => {
  const { killed } = specimen;
  const dir = copyOf(t, killed);
  rmSync(join(dir, 'registry.db-wal'));
  await assertRefused(dir, /ends at revision 45, but revision 49 was acknowledged/);
});

test('a database whose log was truncated after kill -9 is refused', async (t) => {
  const { killed } = specimen;
  const { size } = statSync(join(killed, 'registry.db-wal'));
  for (const length of [0, 31, size - 1]) {
    const dir = copyOf(t, killed);
    truncateSync(join(dir, 'registry.db-wal'), length);
    await assertRefused(dir, /but revision 49 was acknowledged/);
  }
});

const TAILS: Readonly<Record<string, (log: Buffer, from: number) => Buffer>> = {
  'cut off': (log, from) => log.subarray(0, from),
  'cut short': (log) => log.subarray(0, -1),
  zeroed: (log, from) => log.fill(0, from),
  'flipped in one bit': (log, from) => {
    // The page begins after the 24 bytes of the frame's header.
    log[from + 24 + 100]! ^= 1;
    return log;
  },
  'missing, with all of the log': () => Buffer.alloc(0),
};
for (const [what, { body }] of Object.entries({
  "a token's creation": { body: '{"scope":"admin"}' },
  "a token's revocation": { body: undefined },
})) {
  test(`${what} that was acknowledged and is damaged in the log after kill -9 is an error, and never lost`, async (t) => {
    const live = join(tempDir(t), 'data');
    const { store } = await openStore(t, live);
    await store.commit(putOf({ id: 'a', revision: 1 }));
    await store.saveHeartbeats([], 1, [{ kind: 'token', key: 'old', body: '{}' }]);
    const { size } = statSync(join(live, 'registry.db-wal'));
    await store.saveHeartbeats([], 2, [{ kind: 'token', key: 'old', body }]);
    const killed = copyOf(t, live);
    assert.deepEqual(
      (await readStore(copyOf(t, killed))).records.map((token) => token.body),
      body ? [body] : [],
    );
    for (const [tail, damage] of Object.entries(TAILS)) {
      const dir = copyOf(t, killed);
      const file = join(dir, 'registry.db-wal');
      writeFileSync(file, damage(readFileSync(file), size));
      const isEmpty = statSync(file).size === 0;
      await assertRefused(dir, isEmpty ? /it is empty, but/ : /ends at save 1, but save 2 was acknowledged/);
      t.diagnostic(`the last save is ${tail}: refused`);
    }
  });
}

test('an older copy of the database at the same revision, but without the last revocation, is refused', async (t) => {
  const dir = join(tempDir(t), 'data');
  const first = await openStore(t, dir);
  await first.store.saveHeartbeats([], 1, [{ kind: 'token', key: 'a', body: '{}' }]);
  await first.store.close();
  const old = copyOf(t, dir);
  const second = await openStore(t, dir);
  await second.store.saveHeartbeats([], 2, [{ kind: 'token', key: 'a', body: undefined }]);
  await second.store.close();
  cpSync(join(old, 'registry.db'), join(dir, 'registry.db'));
  await assertRefused(dir, /lacks the last tokens, .*ends at save 1, but save 2 was acknowledged/);
});

test('a new database that lost its log before the first checkpoint is refused', async (t) => {
  const live = join(tempDir(t), 'data');
  const { store } = await openStore(t, live);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const dir = copyOf(t, live);
  rmSync(join(dir, 'registry.db-wal'));
  await assertRefused(dir, /is empty, but revision 1 was acknowledged/);
});

test('an older copy of the database beside a newer mark is refused; without the mark it is accepted', async (t) => {
  const dir = join(tempDir(t), 'data');
  const first = await openStore(t, dir);
  await first.store.commit(putOf({ id: 'a', revision: 1 }));
  await first.store.close();
  const old = copyOf(t, dir);
  const second = await openStore(t, dir);
  await second.store.commit(putOf({ id: 'b', revision: 2 }));
  await second.store.close();
  rmSync(join(dir, 'registry.db-wal'), { force: true });
  cpSync(join(old, 'registry.db'), join(dir, 'registry.db'));
  await assertRefused(dir, /ends at revision 1, but revision 2 was acknowledged/);
  rmSync(join(dir, 'registry.mark'));
  const { vms } = await readStore(dir);
  assert.deepEqual(
    vms.map(({ id }) => id),
    ['a'],
  );
});

test('the database of another registry is refused', async (t) => {
  const [dir, other] = [tempDir(t), tempDir(t)];
  for (const each of [dir, other]) await readStore(each);
  cpSync(join(other, 'registry.db'), join(dir, 'registry.db'));
  await assertRefused(dir, /database of another registry/);
});

const TAMPERED: Readonly<Record<string, [sql: string, finding: RegExp]>> = {
  'an entry that was edited': [
    "UPDATE vms SET body = replace(body, 'vm-1', 'vm-x')",
    /the entry of VM ".*" fails its checksum/,
  ],
  'an entry that was deleted': ["DELETE FROM vms WHERE id = 'vm-1'", /has 38 entries but should have 39/],
  'heartbeats that were deleted': ['DELETE FROM beats', /the heartbeats of VM ".*" are missing/],
  'heartbeats that were edited': ['UPDATE beats SET times = zeroblob(4096)', /heartbeat page 0 fails its checksum/],
  'a revision that was decreased': ['UPDATE state SET revision = 1', /state row fails its checksum/],
  'a count of saves that was increased': ['UPDATE state SET saves = saves + 1', /state row fails its checksum/],
  'a state row that was deleted': ['DELETE FROM state', /state row is missing/],
  'a journal that was edited': ["UPDATE journal SET by = 'nobody'", /journal fails its checksum/],
  'a primary key that became the name of a type': [
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'PRIMARY KEY CHECK', 'PRAMARY KEY CHECK')",
    /table "state" has unexpected columns/,
  ],
  'a table that was dropped': ['DROP TABLE beats', /reading it fails: no such table: beats/],
};
for (const [what, [sql, finding]] of Object.entries(TAMPERED)) {
  test(`${what} is detected`, async (t) => {
    const { closed } = specimen;
    const dir = copyOf(t, closed);
    await edit(dir, sql);
    await assertRefused(dir, finding);
  });
}

test('the tables that ANALYZE creates are not damage', async (t) => {
  const { closed, contents } = specimen;
  const dir = copyOf(t, closed);
  await edit(dir, 'ANALYZE');
  assert.deepEqual(await readStore(dir), contents);
});

test('a database of a newer vreg is refused with a hint, and nothing is changed', async (t) => {
  const { closed } = specimen;
  const dir = copyOf(t, closed);
  await edit(dir, 'PRAGMA user_version = 99');
  const before = fingerprint(dir);
  await assert.rejects(readStore(dir), {
    code: 'STORE_NEWER',
    message: /registry\.db was written by a newer vreg: it has schema version 99; this vreg reads version 3 or 4/,
    hint: /nothing was changed; upgrade vreg, or .*vreg daemon restore FILE/,
  });
  assert.deepEqual(fingerprint(dir), before);
});

/** The error of a daemon without the lines of its log: on a busy machine, it reports that it is loading the store. */
function errorOf(stderr: string): string {
  return stderr.replace(/^\{.*\n/gm, '');
}

test('the daemon names the damaged file and how to recover, changes nothing and exits with 1', async (t) => {
  const { closed } = specimen;
  const dir = copyOf(t, closed);
  truncateSync(join(dir, 'registry.db'), 4096);
  const before = fingerprint(dir);
  const { code, stdout, stderr } = await run(PROGRAM, [...ENTRY, 'daemon', '--port', '0', '--data-dir', dir], {
    env: cleanEnv(tempDir(t)),
  });
  assert.equal(code, 1, stderr);
  assert.equal(stdout, '');
  assert.match(
    errorOf(stderr),
    /^vreg: .*registry\.db is damaged: .*\nhint: nothing was changed; restore a backup .*\n$/,
  );
  assert.deepEqual(fingerprint(dir), before);
});

for (const [what, later] of [
  ['the only entry', 0],
  // Each fills a message of the worker.
  ['the first of many entries', 20],
] as const) {
  test(`${what} that passes its checksum but is no JSON is an error of the start that names its VM`, async (t) => {
    const dir = tempDir(t);
    const { store } = await openStore(t, dir);
    const { vm, ...change } = putOf({ id: 'vm-bad', revision: 1 }) as Extract<Change, { kind: 'put' }>;
    await store.commit({ ...change, vm: { ...vm, body: '{"secret' } });
    const more = { metadata: { pad: 'x'.repeat(600_000) } };
    for (let n = 1; n <= later; n++) await store.commit(putOf({ id: `vm-${n}`, revision: n + 1, more }));
    await store.close();
    const before = fingerprint(dir);
    const { code, stderr } = await run(PROGRAM, [...ENTRY, 'daemon', '--port', '0', '--data-dir', dir], {
      env: cleanEnv(tempDir(t)),
    });
    assert.equal(code, 1, stderr);
    const [message, hint, ...rest] = errorOf(stderr).split('\n');
    assert.match(message!, /^vreg: .*registry\.db is damaged: the entry of VM "vm-bad" .* is malformed$/);
    assert.match(hint!, /^hint: nothing was changed; restore a backup/);
    assert.deepEqual(rest, ['']);
    assert.deepEqual(fingerprint(dir), before);
  });
}

test('damage found at run time is STORE_FAILED, with the file and a hint', async (t) => {
  const dir = openDataDir(tempDir(t));
  // More than SQLite caches in memory.
  const metadata = { padding: 'x'.repeat(10_000) };
  const first = await openStore(t, dir.path);
  const changes = Array.from({ length: 300 }, (_, n) => putOf({ id: `${n}`, revision: n + 1, more: { metadata } }));
  await Promise.all(changes.map((change) => first.store.commit(change)));
  await first.store.close();
  const { store } = await openStore(t, dir.path);
  const damage = Buffer.alloc(statSync(dir.database).size - 4096, 0x7f);
  const file = openSync(dir.database, 'r+');
  writeSync(file, damage, 0, damage.length, 4096);
  closeSync(file);
  await assert.rejects(store.backup(join(dir.path, 'copy.db')), {
    code: 'STORE_FAILED',
    message: /could not create a backup: .*registry\.db is damaged: SQLite reports/,
    hint: /vreg daemon restore FILE/,
  });
});
