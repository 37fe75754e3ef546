import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test from 'node:test';
import timers from 'node:timers/promises';
import { PATHS } from '../../src/protocol/api.ts';
import { vreg } from '../helpers/cli.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { stub } from '../helpers/stub.ts';

test('backup overwrites a file only with --force, and leaves no partial file', async (t) => {
  const { home, url } = await startDaemon(t);
  const file = join(home, 'kept');
  writeFileSync(file, 'mine');
  const result = await vreg(['backup', file], { url });
  assert.deepEqual(
    [result.code, result.stderr],
    [4, `vreg: ${file} already exists\nhint: choose another name, or pass --force\n`],
  );
  assert.equal(readFileSync(file, 'utf8'), 'mine');
  assert.equal((await vreg(['backup', file, '--force'], { url })).code, 0);
  assert.match(readFileSync(file, 'latin1'), /^SQLite format 3/);
  const nowhere = await vreg(['backup', join(home, 'no/such/folder')], { url });
  assert.deepEqual([nowhere.code, nowhere.stdout], [5, '']);
  assert.match(nowhere.stderr, /^vreg: cannot write .* \(ENOENT\)\nhint: check its folder/);
  assert.deepEqual(
    readdirSync(home).filter((name) => name.includes('.part')),
    [],
  );
});

test('a backup that breaks off leaves no file and exits with 8', async (t) => {
  const url = await stub(t, (request, response) => {
    response.setHeader('x-vreg-version', '0.0.0');
    if (request.url === '/health') return void response.end('{"status":"ok"}');
    response.write('SQLite');
    setImmediate(() => response.destroy());
  });
  const dir = tempDir(t);
  const result = await vreg(['backup', join(dir, 'file')], { url });
  assert.deepEqual([result.code, result.stdout], [8, '']);
  assert.match(result.stderr, /^vreg: the connection to .* broke during the backup\nhint: .*try again\n$/);
  assert.deepEqual(readdirSync(dir), []);
});

test('a copy may take longer than the default timeout, but not than an explicit one', async (t) => {
  const { setTimeout } = globalThis;
  // A timer of 10 s, the default timeout, ends early.
  t.mock.method(globalThis, 'setTimeout', (act: () => void, ms?: number) => setTimeout(act, ms === 10_000 ? 1000 : ms));
  const url = await stub(t, (request, response) => {
    response.setHeader('x-vreg-version', '0.0.0');
    if (request.url === PATHS.health) response.end('{"status":"ok"}');
    else setTimeout(() => response.end('the copy'), 1500);
  });
  const file = join(tempDir(t), 'file');
  const result = await vreg(['backup', file], { url });
  assert.deepEqual([result.code, result.stderr], [0, '']);
  assert.equal(readFileSync(file, 'utf8'), 'the copy');
  const limited = await vreg(['backup', file, '--force', '--timeout', '200ms'], { url });
  assert.equal(limited.code, 8);
  assert.match(limited.stderr, /no response within 0\.2 s/);
  assert.equal(readFileSync(file, 'utf8'), 'the copy');
});

test('a backup from a registry that freezes ends with 8 and leaves the file as it was', async (t) => {
  // A probe is due at once, and its timeout of 10 s ends early.
  const { timeout } = AbortSignal;
  t.mock.method(AbortSignal, 'timeout', () => timeout(300));
  t.mock.method(timers, 'setTimeout', () => new Promise((resolve) => setImmediate(resolve)));
  syncBuiltinESMExports();
  t.after(() => {
    t.mock.restoreAll();
    syncBuiltinESMExports();
  });
  let isFrozen = false;
  const url = await stub(t, (request, response) => {
    response.setHeader('x-vreg-version', '0.0.0');
    isFrozen ||= request.url === PATHS.backup;
    if (!isFrozen) response.end('{"status":"ok"}');
  });
  const dir = tempDir(t);
  const file = join(dir, 'file');
  writeFileSync(file, 'the copy of yesterday');
  const result = await vreg(['backup', file, '--force'], { url });
  assert.deepEqual([result.code, result.stdout], [8, '']);
  assert.match(result.stderr, /^vreg: cannot reach the registry at .* \(no response within 10 s\b.*\nhint: /);
  assert.equal(readFileSync(file, 'utf8'), 'the copy of yesterday');
  assert.deepEqual(readdirSync(dir), ['file']);
});

test('backup from the original registry exits with 1 and leaves no file', async (t) => {
  const { url } = await startPlainServer(t);
  const file = join(tempDir(t), 'file');
  const result = await vreg(['backup', file], { url });
  assert.deepEqual([result.code, result.stdout], [1, '']);
  assert.match(result.stderr, /is not a vreg daemon: it does not support backups\nhint: /);
  assert.equal(existsSync(file), false);
});
