/** A disk that loses the last thing that was said about a token: the registry does not start as if it had not been said. */
import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, run, startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
const logOf = ({ dataDir }: Daemon) => join(dataDir, 'registry.db-wal');

async function make({ url }: Daemon, name: string, maker = {}): Promise<string> {
  const { status, body } = await call(url, 'POST', '/registry/tokens', { body: { name, scope: 'admin' }, ...maker });
  assert.equal(status, 201);
  return (body as { token: string }).token;
}

/** Kills the daemon, and loses what its log has from a byte on. */
async function loseFrom(daemon: Daemon, from: number): Promise<void> {
  await daemon.end('SIGKILL');
  writeFileSync(logOf(daemon), readFileSync(logOf(daemon)).fill(0, from));
}

test('a revocation lost by the disk is an error at start, and a later backup can be restored', async (t) => {
  const daemon = await startDaemon(t);
  const ops = await make(daemon, 'ops');
  const stolen = await make(daemon, 'stolen', as(ops));
  const { size } = statSync(logOf(daemon));
  assert.equal((await call(daemon.url, 'DELETE', '/registry/tokens/stolen', as(ops))).status, 200);
  const backup = join(daemon.home, 'backup.db');
  const copy = await fetch(`${daemon.url}/registry/backup`, as(ops));
  writeFileSync(backup, Buffer.from(await copy.arrayBuffer()));
  await loseFrom(daemon, size);

  const { home } = daemon;
  await assert.rejects(
    startDaemon(t, { home }),
    /registry\.db is damaged: it lacks the last tokens, revocations.*\nhint: .*vreg daemon restore FILE/,
  );
  const words = [...ENTRY, 'daemon', 'restore', backup, '--yes', '--data-dir', daemon.dataDir];
  const { code, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
  assert.equal(code, 0, stderr);
  const again = await startDaemon(t, { home });
  assert.equal((await call(again.url, 'GET', '/registry/whoami', as(stolen))).status, 401);
  assert.equal((await call(again.url, 'GET', '/registry/whoami', as(ops))).status, 200);
  await make(again, 'next', as(ops));
  await again.end('SIGKILL');
  await startDaemon(t, { home });
});

test('a registry that lost its first token to a disk fault refuses to start instead of being open', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm() });
  await first.end('SIGTERM');
  const daemon = await startDaemon(t, { home: first.home });
  await make(daemon, 'ops');
  await loseFrom(daemon, 0);
  await assert.rejects(
    startDaemon(t, { home: first.home }),
    /it lacks the last tokens.* but save \d+ was acknowledged/,
  );
});
