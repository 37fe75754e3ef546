/** Restores into a data dir that a clean stop did not leave. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before, type TestContext } from 'node:test';
import Database from 'libsql';
import { removeProcessInfo, writeProcessInfo } from '../../../daemon/process/pid-file.ts';
import { lock } from '../../../daemon/store/check.ts';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { restore } from '../../../daemon/store/restore.ts';
import { assertRefused, idsOf } from '../../helpers/crash/damage.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { fingerprint, openDir, putOf, readStore } from '../../helpers/store.ts';

let root: string;
let backup: string;
/** A data dir after kill -9. Its last change is in the log only, and not in the backup. */
let killed: string;
before(async () => {
  root = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  backup = join(root, 'backup.db');
  const { store } = await openDir(join(root, 'data'));
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.backup(backup);
  await store.commit(putOf({ id: 'b', revision: 2 }));
  killed = join(root, 'killed');
  cpSync(join(root, 'data'), killed, { recursive: true });
  await store.close();
});
after(() => rmSync(root, { recursive: true, force: true }));

/** The rollback journal of a first start that was killed. It would truncate the database to no pages. */
function emptyingJournal(): Buffer {
  const header = Buffer.alloc(512);
  header.write('d9d505f920a163d7', 'hex');
  header.writeUInt32BE(512, 20);
  header.writeUInt32BE(4096, 24);
  return header;
}

test('the next start finds the restored backup, even if a killed first start left a rollback journal', async (t) => {
  for (const left of [Buffer.alloc(0), readFileSync(backup)]) {
    const dir = openDataDir(tempDir(t));
    writeFileSync(dir.database, left);
    writeFileSync(dir.journal, emptyingJournal());
    await restore(dir.path, backup);
    assert.deepEqual(idsOf(await readStore(dir.path)), ['a']);
  }
});

test('a rollback journal that would empty the database is an error at start, and changes no byte', async (t) => {
  const dir = openDataDir(tempDir(t));
  copyFileSync(backup, dir.database);
  writeFileSync(dir.journal, emptyingJournal());
  await assertRefused(
    dir.path,
    /registry\.db-journal belongs to another database and would truncate this one to 0 bytes/,
  );
});

test('restoring the files that an earlier restore kept of a killed daemon brings back its last changes', async (t) => {
  const dir = openDataDir(join(tempDir(t), 'data'));
  cpSync(killed, dir.path, { recursive: true });
  const { kept } = await restore(dir.path, backup);
  assert.deepEqual(idsOf(await readStore(dir.path)), ['a']);
  await restore(dir.path, join(kept!, 'registry.db'));
  assert.deepEqual(idsOf(await readStore(dir.path)), ['a', 'b']);
});

test('the database of a killed daemon is refused without its log, and accepted without log and mark', async (t) => {
  const home = tempDir(t);
  const data = join(home, 'data');
  const left = openDataDir(join(home, 'left'));
  cpSync(killed, left.path, { recursive: true });
  copyFileSync(backup, left.database);
  rmSync(left.log);
  await assert.rejects(restore(data, left.database), {
    code: 'STORE_DAMAGED',
    message: /it is damaged: it ends at revision 1, but revision 2 was acknowledged/,
    hint: /nothing was changed; .*a copy of the file alone/,
  });
  rmSync(left.mark);
  await restore(data, left.database);
  assert.deepEqual(idsOf(await readStore(data)), ['a']);
});

/** Replaces a function of the file system for all callers. @returns undoes it */
function replace(t: TestContext, name: 'renameSync' | 'mkdirSync' | 'mkdtempSync', by: (...args: string[]) => void) {
  const { mock } = t.mock.method(fs, name, by);
  const undo = () => {
    mock.restore();
    syncBuiltinESMExports();
  };
  syncBuiltinESMExports();
  t.after(undo);
  return undo;
}

test('no daemon can open the registry while a restore exchanges its files', async (t) => {
  const dir = openDataDir(join(tempDir(t), 'data'));
  cpSync(killed, dir.path, { recursive: true });
  const opened: string[] = [];
  const rename = fs.renameSync;
  replace(t, 'renameSync', (from, to) => {
    rename(from!, to!);
    if (from !== dir.database) return;
    const database = new Database(to!, { timeout: 0 });
    assert.throws(() => database.prepare('SELECT * FROM vms').all(), /locked/);
    database.close();
    opened.push(to!);
  });
  const { kept } = await restore(dir.path, backup);
  assert.deepEqual(opened, [join(kept!, 'registry.db')]);
});

test('a locked database cannot be opened until it is released', async (t) => {
  const data = join(tempDir(t), 'data');
  cpSync(killed, data, { recursive: true });
  const { result, release } = await lock(openDataDir(data));
  t.after(release);
  assert.ok('loaded' in result);
  await assert.rejects(readStore(data), { code: 'ALREADY_RUNNING' });
  await release();
  assert.deepEqual(idsOf(await readStore(data)), ['a', 'b']);
});

for (const name of ['registry.db', 'registry.db-wal', 'registry.mark']) {
  test(`a restore repairs a data dir in which ${name} is a folder, unless the daemon is running`, async (t) => {
    const data = join(tempDir(t), 'data');
    cpSync(killed, data, { recursive: true });
    rmSync(join(data, name));
    mkdirSync(join(data, name));
    await assert.rejects(readStore(data));
    if (name === 'registry.db') {
      writeProcessInfo(data, { kind: 'serve', urls: [] });
      await assert.rejects(restore(data, backup), { code: 'ALREADY_RUNNING' });
      removeProcessInfo(data, 'serve');
    }
    await restore(data, backup);
    assert.deepEqual(idsOf(await readStore(data)), ['a']);
  });
}

test('a restore without space for a folder fails with that reason, and changes nothing', async (t) => {
  const data = join(tempDir(t), 'data');
  cpSync(killed, data, { recursive: true });
  const before = fingerprint(data);
  const { mkdirSync: mkdir } = fs;
  const full = () => {
    throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC', syscall: 'mkdir' });
  };
  const refusal = {
    code: 'STORE_UNUSABLE',
    message: /no space left for a folder in /,
    hint: /nothing was changed; .*df -i/,
  };
  const freeSpace = replace(t, 'mkdtempSync', full);
  await assert.rejects(restore(data, backup), refusal);
  freeSpace();
  replace(t, 'mkdirSync', (path, ...more) => (/before-restore/.test(path!) ? full() : mkdir(path!, ...(more as []))));
  await assert.rejects(restore(data, backup), refusal);
  assert.deepEqual(fingerprint(data), before);
});

test('a restore from a pipe is refused with the advice to use a file', async (t) => {
  const home = tempDir(t);
  const pipe = join(home, 'pipe');
  execFileSync('mkfifo', [pipe]);
  await assert.rejects(restore(join(home, 'data'), pipe), {
    code: 'USAGE',
    message: /pipe \(it is not a regular file\)/,
    hint: /into a file/,
  });
});

test('a restore replaces a pipe in the place of the database', async (t) => {
  const dir = openDataDir(tempDir(t));
  execFileSync('mkfifo', [dir.database]);
  await restore(dir.path, backup);
  assert.deepEqual(idsOf(await readStore(dir.path)), ['a']);
});
