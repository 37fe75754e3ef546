import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { find, heardAfter, heardTwice, inHome, restart, startAgent } from '../helpers/agent/agent.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Milliseconds in which an agent must exit after SIGTERM. */
const GONE_WITHIN = 5000;

test('an agent registers its VM and sends heartbeats', async (t) => {
  const daemon = await serveLive(t);
  startAgent(t, daemon.url, ['--role', 'lieutenant', '--service', 'api:3001/health', '--meta', 'task=billing']);
  const first = await until('the registration', () => find(daemon));
  assert.deepEqual(
    { ...first, registeredAt: '', lastSeen: '' },
    {
      id: 'vm-1',
      name: 'one',
      role: 'lieutenant',
      status: 'running',
      address: 'vm-1.vm.vers.sh',
      services: [{ name: 'api', port: 3001, healthPath: '/health' }],
      metadata: { task: 'billing' },
      registeredBy: 'one',
      registeredAt: '',
      lastSeen: '',
    },
  );
  const later = await heardAfter(daemon, first.lastSeen);
  assert.equal(later.registeredAt, first.registeredAt);
});

test('the log of an agent names the variable or file that the id of its VM comes from', async (t) => {
  const daemon = await serveLive(t);
  const byVariable = startAgent(t, daemon.url);
  await until('the id', () => byVariable.said().includes('the id of this VM is \\"vm-1\\" (from VERS_VM_ID)'));
  await byVariable.end();
  const file = join(tempDir(t), 'identity.json');
  writeFileSync(file, '{"vmId": "vm-2", "parentVmId": "vm-1", "rootVmId": "vm-1"}');
  const env = { VERS_COMMIT_ID: 'c1' };
  const byFile = startAgent(t, daemon.url, ['--id-file', file], { env });
  await until('the id', () => byFile.said().includes(`the id of this VM is \\"vm-2\\" (from ${file})`));
  const vm = await until('the entry', () => find(daemon, 'vm-2'));
  assert.deepEqual([vm.parentId, vm.metadata], ['vm-1', { commitId: 'c1' }]);
});

test('an agent outlives a registry that is killed with -9 and restarted', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  await daemon.end('SIGKILL');
  await until('the agent to notice', () => agent.said().includes('cannot reach the registry'));
  const successor = await restart(t, daemon);
  const { lastSeen } = await until('the entry in the successor', () => find(successor));
  await heardAfter(successor, lastSeen);
  await until('the message', () => agent.said().includes('the registry is reachable again'));
  assert.equal(agent.child.exitCode, null);
});

test('a removed entry is registered again with all fields', async (t) => {
  const daemon = await serveLive(t);
  startAgent(t, daemon.url, ['--service', 'api:3001', '--meta', 'task=billing']);
  const first = await until('the registration', () => find(daemon));
  await daemon.command(['rm', 'vm-1', '--yes']);
  const second = await until('the entry', async () => {
    const vm = await find(daemon);
    return vm && vm.registeredAt > first.registeredAt ? vm : undefined;
  });
  assert.deepEqual(second.services, [{ name: 'api', port: 3001 }]);
  assert.deepEqual(second.metadata, { task: 'billing' });
});

test('an agent registers its VM again with a registry that has lost its data', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await heardTwice(daemon);
  await daemon.end();
  rmSync(daemon.dataDir, { recursive: true });
  const empty = await restart(t, daemon);
  await until('the registration', () => find(empty));
  await until('the message', () => agent.said().includes('the registry does not know this VM; registering it'));
});

test('an agent that starts before its registry registers later', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.end();
  const agent = startAgent(t, daemon.url);
  await until('the agent to notice', () => agent.said().includes('cannot reach the registry'));
  const late = await restart(t, daemon);
  assert.equal((await until('the registration', () => find(late))).status, 'running');
});

test('SIGTERM declares the VM stopped and ends the agent with exit code 0', async (t) => {
  const daemon = await serveLive(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
  assert.equal((await find(daemon))?.status, 'stopped');
});

test('a restarted agent declares its stopped VM running', async (t) => {
  const daemon = await serveLive(t);
  await daemon.command(['register', 'vm-1', '--status', 'stopped']);
  startAgent(t, daemon.url);
  await until('the VM to run', async () => (await find(daemon))?.status === 'running');
});

test('SIGTERM ends the agent in time while the registry is unreachable', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  await daemon.end('SIGKILL');
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
  assert.match(agent.said(), /could not report to the registry that this VM is stopping/);
});

test('SIGTERM ends the agent in time when the registry accepts and never answers', async (t) => {
  const mute = createServer().listen(0, '127.0.0.1');
  t.after(() => mute.close());
  await new Promise((resolve) => mute.once('listening', resolve));
  let asked = false;
  mute.once('connection', () => {
    asked = true;
  });
  const agent = startAgent(t, `http://127.0.0.1:${(mute.address() as AddressInfo).port}`);
  await until('the agent to ask', () => asked);
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
});

test('--on-exit deregister removes the entry', async (t) => {
  const daemon = await serveLive(t);
  const agent = startAgent(t, daemon.url, ['--on-exit', 'deregister']);
  await until('the registration', () => find(daemon));
  assert.equal((await agent.end()).code, 0);
  assert.equal(await find(daemon), undefined);
});

test('an agent does not remove its VM when the machine shuts down, even with --on-exit deregister', async (t) => {
  const daemon = await serveLive(t);
  const bin = tempDir(t);
  writeFileSync(join(bin, 'systemctl'), '#!/bin/sh\necho stopping\nexit 1\n', { mode: 0o755 });
  const env = { PATH: `${bin}:${process.env.PATH}` };
  const agent = startAgent(t, daemon.url, ['--on-exit', 'deregister'], { env });
  await until('the registration', () => find(daemon));
  assert.equal((await agent.end()).code, 0);
  assert.equal((await find(daemon))?.status, 'stopped');
});

test('--on-exit keep leaves the entry unchanged', async (t) => {
  const daemon = await serveLive(t);
  const agent = startAgent(t, daemon.url, [], { env: { VREG_ON_EXIT: 'keep' } });
  await until('the registration', () => find(daemon));
  assert.equal((await agent.end()).code, 0);
  assert.equal((await find(daemon))?.status, 'running');
});

test('an agent with a bad token exits with 2 and a hint', async (t) => {
  const daemon = await serveLive(t, { token: 'right' });
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url, VERS_AUTH_TOKEN: 'wrong' };
  const expected = {
    code: 2,
    signal: null,
    stdout: '',
    stderr:
      'vreg: Unauthorized — invalid token (from VERS_AUTH_TOKEN)\nhint: use the token with which the daemon was started\n',
  };
  assert.deepEqual(await inHome(t, home, ['daemon', 'agent', '--log-level', 'warn'], env), expected);
  assert.deepEqual(await inHome(t, home, ['daemon', 'agent', '--detach'], env), expected);
  assert.equal((await inHome(t, home, ['daemon', 'status'], env)).code, 3);
});

test('an agent writes no hostile id or address to its run dir, and logs each VM that it leaves out once', async (t) => {
  const { url, vms } = await startPlainServer(t);
  const at = () => new Date().toISOString();
  const hostile = [
    { id: 'old', address: '10.0.0.1 -oProxyCommand=reboot' },
    { id: '-x', address: '10.0.0.2' },
    { id: 'good', address: 'http://[fd00::1]/', services: [{ name: 's', port: 81 }] },
  ];
  for (const vm of hostile)
    vms.set(vm.id, { ...aVm(vm), status: 'running', role: 'infra', registeredAt: at(), lastSeen: at() });
  const dir = join(tempDir(t), 'run');
  const agent = startAgent(t, url, ['--run-dir', dir]);
  const env = () => readFileSync(join(dir, 'env'), 'utf8');
  await until('the files', () => existsSync(join(dir, 'env')));
  assert.equal(readFileSync(join(dir, 'by-role/infra/addr'), 'utf8'), '[fd00::1]\n');
  assert.equal(readFileSync(join(dir, 'by-role/infra/url'), 'utf8'), 'http://[fd00::1]:81\n');
  assert.match(env(), /^VREG_INFRA_ID=good\nVREG_INFRA_ADDR='\[fd00::1\]'\n.*\nVREG_INFRA_ADDRS='\[fd00::1\]'\n/);
  // The agent's own VM has no port, so only its address is written.
  const folder = join(dir, 'by-role/worker');
  assert.deepEqual(readdirSync(folder).sort(), ['addr', 'at']);
  const timesLogged = (text: string) => agent.said().split(text).length - 1;
  const before = readFileSync(join(dir, 'by-role/infra/at'), 'utf8');
  await until('another update', () => readFileSync(join(dir, 'by-role/infra/at'), 'utf8') !== before);
  assert.equal(timesLogged('it is omitted from'), 2, agent.said());
  assert.equal(timesLogged(`${folder}/url is omitted: `), 1, agent.said());
});
