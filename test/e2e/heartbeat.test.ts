import assert from 'node:assert/strict';
import test from 'node:test';
import { find, heardAfter, restart, startLong } from '../helpers/agent/agent.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { until } from '../helpers/until.ts';

test('vreg heartbeat --every registers a missing VM and continues to send heartbeats without changing the entry', async (t) => {
  const daemon = await startDaemon(t);
  const beats = startLong(t, daemon.url, ['heartbeat', '--every', '100ms', '--register-if-missing', '-q']);
  const { lastSeen } = await until('the registration', () => find(daemon));
  await heardAfter(daemon, lastSeen);
  await until('beats to be printed', () => beats.said().includes('vm-1\nvm-1\n'));
  const { code } = await beats.end();
  assert.equal(code, 143);
  assert.equal((await find(daemon))?.status, 'running');
});

test('vreg heartbeat --every continues after an outage of the registry', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.vreg(['register', 'vm-1']);
  const beats = startLong(t, daemon.url, ['heartbeat', '--every', '100ms', '-q']);
  await until('a beat', () => beats.said().includes('vm-1\n'));
  await daemon.end('SIGKILL');
  await until('it to notice', () => beats.said().includes('cannot reach the registry'));
  const next = await restart(t, daemon);
  const { lastSeen } = await until('the entry', () => find(next));
  await heardAfter(next, lastSeen);
});

test('vreg heartbeat --every ends with exit code 3 when the VM is not registered', async (t) => {
  const daemon = await startDaemon(t);
  const ran = await daemon.vreg(['heartbeat', 'nobody', '--every', '100ms']);
  assert.deepEqual(ran, {
    code: 3,
    signal: null,
    stdout: '',
    stderr: 'vreg: nobody: VM not found\nhint: list registered VMs: vreg ls\n',
  });
});

test('vreg heartbeat --every continues for the other VMs when one is not registered', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.vreg(['register', 'vm-1']);
  const beats = startLong(t, daemon.url, ['heartbeat', 'nobody', 'vm-1', '--every', '100ms', '-q']);
  await until('the refusal', () => beats.said().includes('stopped sending heartbeats for nobody: VM not found'));
  const { lastSeen } = (await find(daemon))!;
  await heardAfter(daemon, lastSeen);
  await daemon.vreg(['rm', 'vm-1', '--yes']);
  assert.equal(await beats.exited(), 3);
  assert.match(beats.said(), /2 of 2 failed/);
});
