import assert from 'node:assert/strict';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import Database from 'libsql';
import { seed } from '../../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon } from '../../helpers/daemon.ts';
import { FLEET, fleetOf } from '../../helpers/fleet.ts';

test('a backup of a running daemon can be restored, and the replaced data is kept', async (t) => {
  const { home, dataDir, end, ...daemon } = await startDaemon(t);
  await seed(daemon.url, FLEET);
  const before = await fleetOf(daemon.url);
  const file = join(home, 'backup.db');
  const result = await daemon.vreg(['backup', file]);
  assert.deepEqual([result.code, result.stdout, result.stderr], [0, `${file}\n`, '']);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  await daemon.vreg(['rm', 'i', 'w1', '--yes']);
  const env = cleanEnv(home);
  const restore = (...more: string[]) =>
    run(PROGRAM, [...ENTRY, 'daemon', 'restore', file, '--data-dir', dataDir, ...more], { env });
  const running = await restore('--yes');
  assert.deepEqual([running.code, running.stdout], [4, ''], running.stderr);
  assert.match(running.stderr, /^vreg: .*\nhint: /);
  await end('SIGTERM');
  assert.equal((await restore()).code, 7);
  const restored = await restore('--yes');
  assert.deepEqual([restored.code, restored.stdout], [0, `${dataDir}\n`]);
  const [, kept] = /^vreg: the old registry is kept in (\S+)\n$/.exec(restored.stderr)!;
  assert.ok(readdirSync(kept!).length > 0);
  const after = await startDaemon(t, { home });
  assert.deepEqual(await fleetOf(after.url), before);
});

test('a file that is not a backup is not restored, and is bad input', async (t) => {
  const { home, dataDir, end, url } = await startDaemon(t);
  await seed(url, FLEET);
  await end('SIGTERM');
  const file = join(home, 'no-backup');
  const database = join(home, 'other.db');
  const other = new Database(database);
  other.exec('CREATE TABLE vms (id TEXT); INSERT INTO vms VALUES (1)');
  other.close();
  for (const [path, content] of [
    [file, 'hello'.repeat(1000)],
    [file, ''],
    [file, '{"vms": []}'],
    [database, undefined],
  ] as const) {
    if (content !== undefined) writeFileSync(path, content);
    const result = await run(PROGRAM, [...ENTRY, 'daemon', 'restore', path, '--data-dir', dataDir, '--yes'], {
      env: cleanEnv(home),
    });
    assert.deepEqual([result.code, result.stdout], [5, ''], result.stderr);
    assert.match(
      result.stderr,
      /cannot restore .*: it is not the database of a vreg registry\nhint: nothing was changed; pass a file that vreg backup wrote\n$/,
    );
  }
  const again = await startDaemon(t, { home });
  assert.equal((await fleetOf(again.url)).length, FLEET.length);
});
