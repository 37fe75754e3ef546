import assert from 'node:assert/strict';
import test from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const LATER = '2026-01-01T00:00:01.000Z';

test('heartbeat updates lastSeen of this VM or of the named VMs', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  clock.pass(1000);
  assert.deepEqual(await vreg(['heartbeat'], { url, env: { VERS_VM_ID: 'a' } }), {
    code: 0,
    stdout: `ID\tLAST SEEN\na\t${LATER}\n`,
    stderr: '',
  });
  assert.deepEqual(JSON.parse((await vreg(['hb', 'a', '--json'], { url })).stdout), { id: 'a', lastSeen: LATER });
  assert.deepEqual(JSON.parse((await vreg(['beat', 'a', 'b', '--json'], { url })).stdout), [
    { id: 'a', lastSeen: LATER },
    { id: 'b', lastSeen: LATER },
  ]);
});

test('a heartbeat for an unregistered VM exits with 3', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  assert.deepEqual(await vreg(['heartbeat', 'a', 'nope', '-q'], { url }), {
    code: 3,
    stdout: 'a\n',
    stderr: 'vreg: 1 of 2 failed: nope: VM not found\nhint: list registered VMs: vreg ls\n',
  });
});

test('--register-if-missing registers the VM from the flags and variables of register', async (t) => {
  const { url, store } = await serveApp(t);
  const argv = ['heartbeat', 'x', '--register-if-missing', '--role', 'golden', '--service', 'api:80', '-q'];
  assert.deepEqual(await vreg(argv, { url }), { code: 0, stdout: 'x\n', stderr: '' });
  const { role, services } = JSON.parse(store.vms.get('x')!.body) as { role: string; services: unknown };
  assert.deepEqual([role, services], ['golden', [{ name: 'api', port: 80 }]]);
});

test('--every prints one header and a row per heartbeat until interrupted', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const { result, stdout } = start(['heartbeat', 'a', '--every', '20ms'], { url, signal: controller.signal });
  await until('three heartbeats', () => stdout().split('\na\t').length > 3);
  controller.abort(new Interrupted('SIGINT'));
  const { code, stdout: all, stderr } = await result;
  assert.deepEqual([code, stderr], [130, '']);
  assert.match(all, /^ID\tLAST SEEN\n(a\t2026-01-01T00:00:00\.000Z\n)+$/);
});

test('--every continues after an outage of the registry, and notes its start and end once', async (t) => {
  const first = await startPlainServer(t);
  await seed(first.url, [aVm({ id: 'a' })]);
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const argv = ['heartbeat', 'a', '--every', '20ms', '--register-if-missing'];
  const { result, stdout, stderr } = start(argv, { url: first.url, signal: controller.signal });
  await until('the first heartbeat', () => stdout().includes('\na\t'));
  await first.close();
  await until('the note about the outage', () => stderr().includes('retrying until it works'));
  const second = await startPlainServer(t, { port: first.port });
  await until('the VM is registered again', () => second.vms.has('a'));
  await until('the note about its end', () => stderr().includes('the registry is reachable again'));
  controller.abort(new Interrupted('SIGTERM'));
  const { code } = await result;
  assert.equal(code, 143);
  assert.equal(stderr().match(/retrying until it works/g)!.length, 1);
});

test('--every exits with 3 for an unregistered VM', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout, stderr } = await vreg(['heartbeat', 'nope', '--every', '1h'], { url });
  assert.deepEqual([code, stdout], [3, '']);
  assert.match(stderr, /^vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n$/);
});

test('--every with an invalid duration exits with 5', async () => {
  const { code, stderr } = await vreg(['heartbeat', 'a', '--every', '0s']);
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: invalid --every "0s"\nhint: use a duration such as 90s/);
});
