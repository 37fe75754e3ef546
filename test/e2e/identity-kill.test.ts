/** Identities after a kill -9 of the real daemon before it has saved them. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Conflicts } from '../../src/protocol/heartbeat.ts';
import { type Daemon, startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const token = (number: number, digit = 'a') => `${number}.${digit.repeat(32)}`;

/** @returns the status and the code of the answer */
async function beat({ url }: Daemon, body: object): Promise<[status: number, code: unknown]> {
  const answer = await call(url, 'POST', '/registry/vms/vm-1/heartbeat', { body: { incarnation: 'one', ...body } });
  return [answer.status, (answer.body as { code?: unknown }).code];
}

const TAKEN = [200, undefined];
const REFUSED = [409, 'IDENTITY_CONFLICT'];

test('an agent whose last heartbeats were lost with the registry continues, and a copy of it is still refused', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) });
  assert.deepEqual(await beat(first, { next: token(1) }), TAKEN);
  assert.deepEqual(await beat(first, { spend: token(1), next: token(2) }), TAKEN);
  assert.deepEqual(await beat(first, { spend: token(1), next: token(2, 'b') }), REFUSED);
  const started = Date.now();
  // Heartbeats and their records are durable within a second, which no event announces.
  await until('a second and a half', () => Date.now() - started > 1500);
  assert.deepEqual(await beat(first, { spend: token(2), next: token(3) }), TAKEN);
  assert.deepEqual(await beat(first, { spend: token(3), next: token(4) }), TAKEN);
  await first.end('SIGKILL');
  // However much of this was saved, the agent is ahead of it and its copy is behind.
  const second = await startDaemon(t, { home: first.home });
  assert.deepEqual(await beat(second, { spend: token(4), next: token(5) }), TAKEN);
  assert.deepEqual(await beat(second, { spend: token(1), next: token(2, 'b') }), REFUSED);
  assert.equal(second.said().includes('rollback_detected'), false);
});

test('the holder and both sides of a conflict survive a kill', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) });
  await beat(first, { next: token(1), address: '10.0.0.1' });
  await beat(first, { spend: token(1), next: token(2), address: '10.0.0.1' });
  const copy = { spend: token(1), next: token(2, 'b'), incarnation: 'two', address: '10.0.0.2' };
  assert.deepEqual(await beat(first, copy), REFUSED);
  const started = Date.now();
  // Beats, and what comes with them, are durable within a second; nothing tells when.
  await until('a second and a half', () => Date.now() - started > 1500);
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  const { conflicts } = (await call(second.url, 'GET', '/registry/conflicts')).body as Conflicts;
  assert.deepEqual(
    conflicts.map(({ id, state, count, holder, other }) => [id, state, count, holder.address, other.address]),
    [['vm-1', 'open', 1, '10.0.0.1', '10.0.0.2']],
  );
  assert.deepEqual(await beat(second, copy), REFUSED);
  assert.deepEqual(await beat(second, { spend: token(2), next: token(3) }), TAKEN);
});

test('a VM removed just before a kill can register again, without holder or conflicts', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) });
  await beat(first, { next: token(9), address: '10.0.0.1' });
  const started = Date.now();
  await until('a second and a half', () => Date.now() - started > 1500);
  assert.equal((await call(first.url, 'DELETE', '/registry/vms/vm-1')).status, 200);
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  assert.equal((await call(second.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) })).status, 201);
  assert.deepEqual(await beat(second, { next: token(1, 'b'), incarnation: 'two', address: '10.0.0.2' }), TAKEN);
});

test('a conflict cleared just before a kill stays cleared', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) });
  await beat(first, { next: token(1) });
  await beat(first, { spend: token(1), next: token(2) });
  assert.deepEqual(await beat(first, { spend: token(1), next: token(2, 'b') }), REFUSED);
  const started = Date.now();
  await until('a second and a half', () => Date.now() - started > 1500);
  assert.deepEqual((await call(first.url, 'DELETE', '/registry/conflicts')).body, { cleared: 1 });
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  assert.equal(((await call(second.url, 'GET', '/registry/conflicts')).body as Conflicts).count, 0);
});
