import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { Vm } from '../../src/protocol/vm.ts';
import { type Daemon, startDaemon } from '../helpers/daemon.ts';
import { freeze } from '../helpers/freeze.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Milliseconds of the lease in these tests: short, so that the tests are. */
const LEASE = 2000;
const options = { args: ['--stale-after', '2s', '--log-level', 'warn'] };

async function ask<T>({ url }: Daemon, method: string, path: string, body?: object): Promise<T> {
  const response = await fetch(`${url}${path}`, { method, ...(body ? { body: JSON.stringify(body) } : {}) });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return (await response.json()) as T;
}

const register = (daemon: Daemon, id: string) => ask<Vm>(daemon, 'POST', '/registry/vms', aVm({ id }));
const beat = (daemon: Daemon, id: string) => ask<{ lastSeen: string }>(daemon, 'POST', `/registry/vms/${id}/heartbeat`);
const live = async (daemon: Daemon) =>
  (await ask<{ vms: Vm[] }>(daemon, 'GET', '/registry/discover/worker')).vms.map(({ id }) => id);

async function outlastTheLease(): Promise<void> {
  const end = Date.now() + LEASE + 500;
  await until('a lease to be over by the wall clock', () => Date.now() > end);
}

test('after kill -9 and a long pause the live VM is live, and the stale one stale', async (t) => {
  const first = await startDaemon(t, options);
  await register(first, 'silent');
  await until('the silent VM to go stale', async () => (await live(first)).length === 0);
  await register(first, 'live');
  await first.end('SIGKILL');
  await outlastTheLease();
  const second = await startDaemon(t, { ...options, home: first.home });
  assert.deepEqual(await live(second), ['live']);
  await until('the lease to run out, now that the registry listens', async () => (await live(second)).length === 0);
});

test('a daemon that was suspended for longer than a lease marks no VM stale when it resumes', async (t) => {
  const daemon = await startDaemon(t, options);
  await register(daemon, 'live');
  freeze(daemon.child);
  await outlastTheLease();
  daemon.child.kill('SIGCONT');
  assert.deepEqual(await live(daemon), ['live']);
});

test('a heartbeat survives kill -9 about a second later', async (t) => {
  const first = await startDaemon(t, { args: ['--log-level', 'warn'] });
  await register(first, 'vm-1');
  const written = () => statSync(join(first.dataDir, 'registry.db-wal')).mtimeMs;
  const beatAndWait = async () => {
    const before = written();
    const sent = Date.now();
    const { lastSeen } = await beat(first, 'vm-1');
    await until('the beat to be saved', () => written() !== before);
    return { lastSeen, late: written() - sent };
  };
  // The first one puts the next save without a beat seconds away, so that the second one sees its own.
  await beatAndWait();
  const { lastSeen, late } = await beatAndWait();
  assert.ok(late < 2000, `saved after ${late} ms: more than the promised second, and one for a busy machine`);
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  assert.equal((await ask<Vm>(second, 'GET', '/registry/vms/vm-1')).lastSeen, lastSeen);
});

test('a daemon saves the last heartbeat when it stops', async (t) => {
  const first = await startDaemon(t, { args: ['--log-level', 'warn'] });
  await register(first, 'vm-1');
  const { lastSeen } = await beat(first, 'vm-1');
  assert.deepEqual(await first.end(), { code: 0, signal: null });
  const second = await startDaemon(t, { home: first.home });
  assert.equal((await ask<Vm>(second, 'GET', '/registry/vms/vm-1')).lastSeen, lastSeen);
});

test('after SIGSTOP or a restart, a response states for how long it may include dead VMs', async (t) => {
  const daemon = await startDaemon(t, options);
  await register(daemon, 'live');
  const warming = async ({ url }: Daemon) =>
    (await fetch(`${url}/registry/discover/worker`)).headers.get('x-vreg-warming');
  assert.equal(await warming(daemon), null);
  freeze(daemon.child);
  await outlastTheLease();
  daemon.child.kill('SIGCONT');
  assert.match((await warming(daemon)) ?? '', /^[12]$/);
  await beat(daemon, 'live');
  assert.match((await warming(daemon)) ?? '', /^[12]$/, 'this heartbeat may have waited since before the pause');
  assert.equal((await daemon.command(['addr', 'worker', '--strict'])).code, 10);
  await until('a heartbeat that was certainly sent after the pause', async () => {
    await beat(daemon, 'live');
    return (await warming(daemon)) === null;
  });
  await daemon.end();
  const again = await startDaemon(t, { ...options, home: daemon.home });
  assert.match((await warming(again)) ?? '', /^[12]$/);
  await beat(again, 'live');
  assert.equal((await again.command(['addr', 'worker', '--strict'])).code, 0);
});

test('leases expire on a registry that is killed every second and receives no heartbeats', async (t) => {
  let daemon = await startDaemon(t, options);
  await register(daemon, 'silent');
  for (let starts = 1; (await live(daemon)).length > 0; starts++) {
    assert.ok(starts <= 10, `after ${starts} runs of a second the lease of two seconds has not expired`);
    const killAt = Date.now() + 1000;
    await until('the registry to have run for a second', () => Date.now() > killAt);
    await daemon.end('SIGKILL');
    daemon = await startDaemon(t, { ...options, home: daemon.home });
  }
});
