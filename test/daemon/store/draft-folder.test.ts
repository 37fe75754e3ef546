import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { markOf } from '../../../daemon/process/other-process.ts';
import { readBackup } from '../../../daemon/store/backup-file.ts';
import { removeAbandonedDrafts } from '../../../daemon/store/draft-folder.ts';
import { restore } from '../../../daemon/store/restore.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { openDir, putOf } from '../../helpers/store.ts';

const MODULE = join(import.meta.dirname, '../../../daemon/store/draft-folder.ts');

/** Creates folders in another process, which then ends. @returns the folders that are left */
function leftBy(end: string, dir: string, ...prefixes: string[]): string[] {
  const script = `import { createDraftFolder } from ${JSON.stringify(MODULE)};
    import { writeFileSync } from 'node:fs';
    for (const prefix of process.argv.slice(1))
      writeFileSync(createDraftFolder(prefix).path + '/registry.db', 'hashes');
    ${end};`;
  const paths = prefixes.map((prefix) => join(dir, prefix));
  const { stderr } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script, ...paths]);
  assert.equal(stderr.toString(), '');
  return readdirSync(dir)
    .map((name) => name.slice(0, -6))
    .sort();
}

async function backupIn(t: TestContext): Promise<string> {
  const home = tempDir(t);
  const { store } = await openDir(join(home, 'data'));
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const backup = join(home, 'backup.db');
  await store.backup(backup);
  await store.close();
  return backup;
}

test('a process that exits early removes its copy of a backup', (t) => {
  assert.deepEqual(leftBy('process.exit(130)', tempDir(t), 'vreg-restore-'), []);
});

test('the next restore removes the copy of one that was killed', async (t) => {
  const backup = await backupIn(t);
  const dir = tempDir(t);
  const prefixes = ['restore-', 'vreg-restore-'];
  assert.deepEqual(leftBy("process.kill(process.pid, 'SIGKILL')", dir, ...prefixes), prefixes);
  const before = process.env.TMPDIR;
  process.env.TMPDIR = dir;
  t.after(() => {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  });
  assert.equal((await readBackup(backup)).vms.length, 1);
  assert.deepEqual(
    readdirSync(dir).map((name) => name.slice(0, -6)),
    ['restore-'],
  );
  await restore(dir, backup);
  assert.deepEqual(readdirSync(dir).sort(), ['registry.db', 'registry.mark']);
});

test('a folder of another container, whose processes are unknown, is removed only when it is old', (t) => {
  const dir = tempDir(t);
  const owner = JSON.stringify({ ...markOf(process.pid), started: 'earlier', namespace: 'pid:[1]' });
  for (const name of ['restore-aaaaaa', 'restore-bbbbbb']) {
    mkdirSync(join(dir, name), { mode: 0o700 });
    writeFileSync(join(dir, name, 'owner.json'), owner);
  }
  const before = new Date('2026-01-01T00:00:00.000Z');
  utimesSync(join(dir, 'restore-bbbbbb'), before, before);
  removeAbandonedDrafts(join(dir, 'restore-'));
  assert.deepEqual(readdirSync(dir), ['restore-aaaaaa']);
});

test('a folder whose owner cannot be read does not protect the others', (t) => {
  const dir = tempDir(t);
  const gone = JSON.stringify({ ...markOf(process.pid), started: 'earlier' });
  // Between two others, because the order of the names in a folder is not defined.
  const owners = { 'restore-aaaaaa': gone, 'restore-bbbbbb': '', 'restore-cccccc': gone };
  for (const [name, owner] of Object.entries(owners)) {
    mkdirSync(join(dir, name), { mode: 0o700 });
    writeFileSync(join(dir, name, 'owner.json'), owner);
  }
  removeAbandonedDrafts(join(dir, 'restore-'));
  assert.deepEqual(readdirSync(dir), ['restore-bbbbbb']);
});

test('a restore removes neither the folder of a running one nor a folder that it has not made', async (t) => {
  const backup = await backupIn(t);
  const dir = tempDir(t);
  const gone = JSON.stringify({ ...markOf(process.pid), started: 'earlier' });
  const folders = {
    'restore-aaaaaa': JSON.stringify(markOf(process.pid)),
    'restore-monday': '',
    'restore-weekly-1': gone,
  };
  for (const [name, owner] of Object.entries({ ...folders, 'restore-shared': gone })) {
    mkdirSync(join(dir, name), { mode: 0o700 });
    if (owner !== '') writeFileSync(join(dir, name, 'owner.json'), owner);
  }
  // Another user could replace a part of it by a link while it is removed.
  chmodSync(join(dir, 'restore-shared'), 0o770);
  await restore(dir, backup);
  for (const name of [...Object.keys(folders), 'restore-shared']) assert.ok(existsSync(join(dir, name)), name);
});
