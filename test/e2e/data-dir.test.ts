import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';

const daemonOn = (dataDir: string, home: string) =>
  run(PROGRAM, [...ENTRY, 'daemon', '--port', '0', '--data-dir', dataDir], { env: cleanEnv(home) });

test('a second daemon on one data dir is refused with the pid and the URL of the first', async (t) => {
  const first = await startDaemon(t);
  const { code, stdout, stderr } = await daemonOn(first.dataDir, first.home);
  assert.equal(code, 4);
  assert.equal(stdout, '');
  assert.match(
    stderr,
    new RegExp(`^vreg: .*pid ${first.child.pid}, serving ${first.url} since .*\nhint: .*vreg daemon stop`, 'm'),
  );
  assert.equal((await fetch(`${first.url}/health`)).status, 200, 'the first still works');
});

test('a daemon removes its pid file when it stops, and a pid file left by kill -9 does no harm', async (t) => {
  const first = await startDaemon(t);
  const file = join(first.dataDir, 'daemon.json');
  await first.end('SIGKILL');
  assert.equal(existsSync(file), true);
  const second = await startDaemon(t, { home: first.home });
  assert.deepEqual(await second.end(), { code: 0, signal: null });
  assert.equal(existsSync(file), false);
});

test('a data dir that cannot be used is named, with the next step', async (t) => {
  const home = tempDir(t);
  const file = join(home, 'file');
  writeFileSync(file, '');
  const { code, stderr } = await daemonOn(file, home);
  assert.equal(code, 1);
  assert.match(stderr, /^vreg: cannot use the data dir .*\/file \(EEXIST, from [^)]+\)\nhint: .*--data-dir\n$/);
});

test('a database that is not a file is named, with the next step', async (t) => {
  const home = tempDir(t);
  mkdirSync(join(home, 'data', 'registry.db'), { recursive: true });
  const { code, stderr } = await daemonOn(join(home, 'data'), home);
  assert.equal(code, 1);
  assert.match(stderr, /^vreg: cannot use .*registry\.db: it is not a regular file\nhint: .*\n$/);
});

test('a daemon that cannot register itself exits with an error message', async (t) => {
  const home = tempDir(t);
  const { code, stderr } = await run(
    PROGRAM,
    [...ENTRY, 'daemon', '--port', '0', '--data-dir', join(home, 'data'), '--self-register', '--id', '..'],
    { env: cleanEnv(home) },
  );
  assert.equal(code, 5, stderr);
  assert.match(stderr, /^vreg: /m);
});
