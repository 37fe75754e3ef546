/** The extension of vreg for pi and that of the original registry: one suite for both, and then the differences. */
import assert from 'node:assert/strict';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { Identity } from '../../daemon/agent/identity.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { copyState, find, heardAfter, heardTwice, startAgent } from '../helpers/agent/agent.ts';
import { endAfter, startDaemon, tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { EXTENSIONS, startPi } from '../helpers/pi/pi.ts';
import { json, stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';

/** Starts a session of pi, and the work of the agent in it. */
async function begin(pi: ReturnType<typeof startPi>): Promise<void> {
  await pi.fire('session_start');
  await pi.fire('agent_start');
}

/** The fields of an entry that the test chooses. */
function pick(vm: Vm | undefined, ...fields: (keyof Vm)[]): unknown[] {
  return fields.map((field) => vm?.[field]);
}

for (const [name, extension] of Object.entries(EXTENSIONS)) {
  for (const token of [undefined, 'fleet-token']) {
    const env = token === undefined ? {} : { VERS_AUTH_TOKEN: token };
    test(`the extension of ${name} registers its VM ${token ? 'with' : 'without'} a token, and sends heartbeats`, async (t) => {
      const daemon = await serveLive(t, token === undefined ? {} : { token });
      const pi = startPi(t, daemon.url, { extension, env });
      await begin(pi);
      const entry = await until('the entry', () => find(daemon));
      assert.deepEqual(pick(entry, 'name', 'role', 'status', 'address', 'registeredBy'), [
        'one',
        'worker',
        'running',
        'vm-1.vm.vers.sh',
        'one',
      ]);
      const { pid, startedAt } = entry.metadata as { pid: number; startedAt: string };
      assert.deepEqual([pid, startedAt], [pi.pid, new Date(startedAt).toISOString()]);
      await heardTwice(daemon);
    });
  }

  test(`the extension of ${name} updates the entry of a VM that is registered already`, async (t) => {
    const daemon = await serveLive(t);
    for (const argv of [
      ['register', 'vm-1', '--name', 'old', '--role', 'lieutenant', '--meta', 'task=7', '--address', 'vm-1.vm.vers.sh'],
      ['stop', 'vm-1'],
    ])
      assert.equal((await daemon.command(argv)).code, 0);
    await begin(startPi(t, daemon.url, { extension }));
    const entry = await until('the new status', async () => {
      const vm = await find(daemon);
      return vm?.status === 'running' ? vm : undefined;
    });
    assert.deepEqual(pick(entry, 'name', 'role'), ['one', 'lieutenant']);
    assert.equal(entry.metadata?.task, 7);
  });

  test(`the extension of ${name} registers and removes VMs that other extensions create and destroy`, async (t) => {
    const daemon = await serveLive(t);
    const pi = startPi(t, daemon.url, { extension });
    await begin(pi);
    await pi.emit('vers:agent_spawned', {
      ...{ vmId: 'agent/1', label: 'billing', role: 'worker', address: '10.0.0.7', commitId: 'c-1' },
    });
    const createdAt = '2026-01-01T00:00:00.000Z';
    await pi.emit('vers:lt_created', { vmId: 'lt-1', name: 'front', address: '10.0.0.8', ltRole: 'ui', createdAt });
    const agent = await until('the agent', () => find(daemon, 'agent/1'));
    const lieutenant = await until('the lieutenant', () => find(daemon, 'lt-1'));
    assert.deepEqual(pick(agent, 'name', 'role', 'address', 'registeredBy'), [
      'billing',
      'worker',
      '10.0.0.7',
      'agent-services',
    ]);
    const { createdAt: at, ...metadata } = agent.metadata as Record<string, string>;
    assert.deepEqual(metadata, { agentId: 'billing', commitId: 'c-1', registeredVia: 'vers:agent_spawned' });
    assert.equal(new Date(at!).toISOString(), at);
    assert.deepEqual(pick(lieutenant, 'name', 'role', 'metadata'), [
      'front',
      'lieutenant',
      { agentId: 'front', role: 'ui', createdAt, registeredVia: 'vers:lt_created' },
    ]);
    await pi.emit('vers:agent_destroyed', { vmId: 'agent/1', label: 'billing' });
    await pi.emit('vers:lt_destroyed', { vmId: 'lt-1', name: 'front' });
    for (const id of ['agent/1', 'lt-1'])
      await until(`the end of ${id}`, async () => (await find(daemon, id)) === undefined);
  });

  test(`the tools of the extension of ${name} register, list, discover and send heartbeats`, async (t) => {
    const daemon = await serveLive(t);
    const pi = startPi(t, daemon.url, { extension, env: { VREG_INTERVAL: '1h' } });
    const entry = { id: 'w-1', name: 'w', role: 'worker', address: '10.0.0.9', registeredBy: 'one' };
    await pi.call('registry_register', entry);
    const registered = await until('the entry', () => find(daemon, 'w-1'));
    assert.deepEqual(pick(registered, 'name', 'role', 'address', 'registeredBy'), ['w', 'worker', '10.0.0.9', 'one']);
    for (const [tool, params] of [
      ['registry_list', { role: 'worker', status: 'running' }],
      ['registry_discover', { role: 'worker' }],
    ] as const) {
      const { vms, count } = (await pi.call(tool, params)) as { vms: Vm[]; count: number };
      assert.deepEqual([vms.map(({ id }) => id), count], [['w-1'], 1], tool);
    }
    assert.equal((await pi.call('registry_heartbeat', { id: 'w-1' })).id, 'w-1');
    assert.ok((await find(daemon, 'w-1'))!.lastSeen > registered.lastSeen);
    await assert.rejects(pi.call('registry_register', entry), /already registered/);
    await assert.rejects(pi.call('registry_heartbeat', { id: 'w-2' }), /not found/);
  });

  test(`the extension of ${name} survives a registry that is away, and registers its VM with the next prompt`, async (t) => {
    const daemon = await startDaemon(t);
    await daemon.end();
    const pi = startPi(t, daemon.url, { extension });
    await begin(pi);
    await pi.emit('vers:agent_spawned', { vmId: 'a-1', label: 'a', role: 'worker', address: '10.0.0.7' });
    await assert.rejects(pi.call('registry_list'));
    const late = await startDaemon(t, { home: daemon.home, args: ['--port', new URL(daemon.url).port] });
    await pi.fire('agent_start');
    await until('the entry', () => find(late));
  });
}

test('both extensions have the tools of the original with its parameters', async (t) => {
  const [vreg, original] = await Promise.all(
    [EXTENSIONS.vreg, EXTENSIONS.original].map((extension) => startPi(t, 'http://127.0.0.1:1', { extension }).tools()),
  );
  for (const { name, parameters } of original!) {
    const ours = vreg!.find((tool) => tool.name === name);
    for (const key of Object.keys(parameters.properties))
      assert.ok(Object.hasOwn(ours!.parameters.properties, key), `${name} ${key}`);
  }
});

test('an idle VM stays running and discoverable; the original sets it to stopped', async (t) => {
  for (const [extension, status, discovered] of [
    [EXTENSIONS.vreg, 'running', 'vm-1\n'],
    [EXTENSIONS.original, 'stopped', ''],
  ] as const) {
    const daemon = await serveLive(t);
    const pi = startPi(t, daemon.url, { extension });
    await begin(pi);
    await heardTwice(daemon);
    await pi.fire('agent_end');
    await pi.fire('session_shutdown');
    assert.equal((await find(daemon))?.status, status);
    assert.equal((await daemon.command(['discover', 'worker', '-q'])).stdout, discovered);
    const history = await daemon.command(['history', 'vm-1', '-o', 'json']);
    assert.equal(history.stdout.includes('stopped'), status === 'stopped');
  }
});

test('the extension of vreg prints nothing, and its process ends by itself, during a session and after it', async (t) => {
  const daemon = await serveLive(t);
  for (const isEnded of [false, true]) {
    const pi = startPi(t, daemon.url);
    await begin(pi);
    await until('the line in the footer', () => pi.status() === 'registry: vm-1');
    if (isEnded) {
      await pi.fire('session_shutdown');
      assert.equal(pi.status(), undefined);
    }
    assert.deepEqual(await pi.leave(), { code: 0, signal: null, stdout: '', stderr: '' });
    assert.equal((await find(daemon))?.status, 'running');
  }
});

test('the end of a session ends requests to a registry that never responds', async (t) => {
  let connections = 0;
  const silent = createServer(() => {
    connections++;
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  endAfter(t, async () => silent.close());
  const { port } = silent.address() as { port: number };
  const pi = startPi(t, `http://127.0.0.1:${port}`, { env: { VREG_TIMEOUT: '1h' } });
  await begin(pi);
  await until('the request', () => connections > 0);
  await pi.fire('session_shutdown');
  assert.deepEqual(await pi.leave(), { code: 0, signal: null, stdout: '', stderr: '' });
});

test('the extension of vreg registers its VM again if the entry was removed, and leaves a paused one', async (t) => {
  const daemon = await serveLive(t);
  const pi = startPi(t, daemon.url);
  await pi.fire('session_start');
  const { registeredAt } = await until('the entry', () => find(daemon));
  await daemon.command(['rm', 'vm-1', '--yes']);
  await until('the new entry', async () => ((await find(daemon))?.registeredAt ?? registeredAt) !== registeredAt);
  await daemon.command(['pause', 'vm-1']);
  await pi.fire('agent_start');
  const { lastSeen } = (await find(daemon))!;
  assert.equal((await heardAfter(daemon, lastSeen)).status, 'paused');
});

test('the extension of vreg names this VM as the parent of those that it registers, and leaves entries of others', async (t) => {
  const daemon = await serveLive(t);
  const pi = startPi(t, daemon.url);
  await pi.fire('session_start');
  await daemon.command(['register', 'a-1', '--name', 'own', '--address', '10.0.0.1']);
  for (const vmId of ['a-1', 'a-2', '', 'vm-1'])
    await pi.emit('vers:agent_spawned', { vmId, label: 'a', role: 'worker', address: '10.0.0.2' });
  await until('the second entry', () => find(daemon, 'a-2'));
  assert.equal((await find(daemon, 'a-2'))?.parentId, 'vm-1');
  assert.equal((await find(daemon, 'a-1'))?.name, 'own');
  await pi.emit('vers:agent_destroyed', { vmId: 'vm-1', label: 'one' });
  await pi.emit('vers:agent_destroyed', { label: 'one' });
  await pi.emit('vers:agent_destroyed', { vmId: 'a-2' });
  await until('the end of the second entry', async () => (await find(daemon, 'a-2')) === undefined);
  assert.equal((await find(daemon))?.name, 'one');
});

test('in a clone, the extension of vreg changes nothing for the VM from which it was copied', async (t) => {
  const daemon = await serveLive(t);
  const original = startPi(t, daemon.url, { env: { VREG_ADDRESS: '10.0.0.1' } });
  await original.fire('session_start');
  await heardTwice(daemon);
  const home = tempDir(t);
  copyState(join(original.home, 'state'), join(home, 'state'));
  await heardTwice(daemon);
  const clone = startPi(t, daemon.url, { home, env: { VREG_ADDRESS: '10.0.0.2', VERS_AGENT_NAME: 'two' } });
  await clone.fire('session_start');
  const refused = 'registry: this VM is a clone of vm-1, and sends no heartbeats; what to do: vreg whoami';
  await until('the decision', () => clone.status() === refused);
  await daemon.command(['register', 'w-1', '--address', '10.0.0.3']);
  await clone.fire('agent_start');
  await clone.emit('vers:agent_destroyed', { vmId: 'w-1' });
  await clone.emit('vers:agent_destroyed', { vmId: 'vm-1' });
  await clone.emit('vers:agent_spawned', { vmId: 'w-2', label: 'w', role: 'worker', address: '10.0.0.4' });
  const child = await until('the child', () => find(daemon, 'w-2'));
  assert.equal(child.parentId, undefined);
  assert.ok(await find(daemon, 'w-1'));
  for (const [tool, params] of [
    ['registry_update', { id: 'vm-1', name: 'mine' }],
    ['registry_heartbeat', {}],
    ['registry_deregister', { id: 'vm-1' }],
    ['registry_register', {}],
  ] as const)
    await assert.rejects(clone.call(tool, params), /this VM is a clone: another VM holds the id "vm-1"/, tool);
  const entry = await find(daemon);
  assert.deepEqual(pick(entry, 'name', 'address', 'status'), ['one', '10.0.0.1', 'running']);
  await clone.call('registry_register', { id: 'vm-2', self: true });
  const { lastSeen } = await until('the entry of the clone', () => find(daemon, 'vm-2'));
  await heardAfter(daemon, lastSeen, 'vm-2');
  assert.equal(original.status(), 'registry: vm-1');
  await clone.fire('session_shutdown');
  const later = startPi(t, daemon.url, { home });
  await later.fire('session_start');
  await until('the line in the footer', () => later.status() === 'registry: vm-2');
});

test('beside an agent of the VM, the extension of vreg proves nothing, and restores a stopped entry', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const agent = startAgent(t, daemon.url, [], { home });
  await heardTwice(daemon);
  await daemon.command(['stop', 'vm-1']);
  const pi = startPi(t, daemon.url, { home });
  await begin(pi);
  await until('the new status', async () => (await find(daemon))?.status === 'running');
  await heardTwice(daemon);
  assert.equal(pi.status(), 'registry: vm-1');
  assert.doesNotMatch(agent.said(), /"level":"(warn|error)"/);
});

test('the footer names the registry to which the agent of this VM sends heartbeats if it is another one', async (t) => {
  const [daemon, other] = [await serveLive(t), await serveLive(t)];
  const home = tempDir(t);
  startAgent(t, other.url, [], { home });
  await heardTwice(other);
  const pi = startPi(t, daemon.url, { home });
  await begin(pi);
  const footer = await until('the line in the footer', () => pi.status());
  assert.equal(footer, `registry: vm-1; its agent sends heartbeats to ${other.url}`);
});

test('without a usable state folder, the extension of vreg registers its VM, and its footer names what is lost', async (t) => {
  const daemon = await serveLive(t);
  const file = join(tempDir(t), 'file');
  writeFileSync(file, '');
  const pi = startPi(t, daemon.url, { env: { VREG_DATA_DIR: file } });
  await begin(pi);
  const { lastSeen } = await until('the entry', () => find(daemon));
  await heardAfter(daemon, lastSeen);
  assert.match(
    await until('the line in the footer', () => pi.status()),
    /^registry: vm-1; clones of this VM are not detected: cannot use the data dir \S+\/file \(EEXIST\)$/,
  );
});

test('without a usable state folder, the extension of vreg in a renamed clone does not act as the VM from which it was copied', async (t) => {
  const daemon = await serveLive(t);
  const folder = tempDir(t);
  Identity.open(folder, 'vm-1').rebirth('vm-2');
  chmodSync(folder, 0o777);
  const pi = startPi(t, daemon.url, { env: { VREG_DATA_DIR: folder } });
  await begin(pi);
  assert.match(
    await until('the line in the footer', () => pi.status()),
    /^registry: vm-2; clones of this VM are not detected: /,
  );
  assert.equal((await find(daemon, 'vm-2'))?.parentId, 'vm-1');
  assert.equal(await find(daemon), undefined);
});

test('without an id or a registry, the extension of vreg registers nothing', async (t) => {
  const daemon = await serveLive(t);
  for (const env of [{ VERS_VM_ID: '' }, { VERS_INFRA_URL: '' }]) {
    const pi = startPi(t, daemon.url, { env });
    await begin(pi);
    await pi.fire('session_shutdown');
    assert.deepEqual(await pi.leave(), { code: 0, signal: null, stdout: '', stderr: '' });
    assert.deepEqual(readdirSync(pi.home), []);
  }
  assert.equal((await daemon.command(['ls', '-q'])).stdout, '');
});

test('on a machine that is no VM, the extension of vreg registers new VMs without a parent', async (t) => {
  const daemon = await serveLive(t);
  const pi = startPi(t, daemon.url, { env: { VERS_VM_ID: '' } });
  await begin(pi);
  await pi.emit('vers:agent_spawned', { vmId: 'a-1', label: 'a', role: 'worker', address: '10.0.0.2' });
  assert.equal((await until('the entry', () => find(daemon, 'a-1'))).parentId, undefined);
});

test('with an invalid interval, the extension of vreg sends heartbeats, and its footer names the fault', async (t) => {
  const daemon = await serveLive(t);
  const pi = startPi(t, daemon.url, { env: { VREG_INTERVAL: 'soon' } });
  await begin(pi);
  await until('the line', () => /^registry: vm-1; .*soon.*, so the interval is 60 s$/.test(pi.status() ?? ''));
});

test('the footer names the event that failed, and shows no control characters and no token', async (t) => {
  const daemon = await serveLive(t);
  const pi = startPi(t, daemon.url, { env: { VREG_INTERVAL: '1h' } });
  await begin(pi);
  await until('the line', () => pi.status() === 'registry: vm-1');
  await pi.emit('vers:agent_spawned', { vmId: 'a-1', label: 'a', role: 'worker', address: 'not a host' });
  await until('the failure', () =>
    /^registry: vers:agent_spawned: invalid address "not a host"/.test(pi.status() ?? ''),
  );

  const token = `vreg_${'x'.repeat(43)}`;
  const url = await stub(t, (_request, response) => json(response, 503, { error: `\u001b]0;no\u0007 ${token}\nline` }));
  const away = startPi(t, url);
  await away.fire('session_start');
  assert.equal(await until('the error', () => away.status()), 'registry: \ufffd]0;no\ufffd vreg_***\ufffdline');
});

test('the file of the extension needs no other file, and contains no token', async (t) => {
  const source = readFileSync(EXTENSIONS.vreg, 'utf8');
  const required = [...source.matchAll(/require\("([^"]+)"\)/g)].map(([, name]) => name!);
  const { isBuiltin } = await import('node:module');
  assert.deepEqual(
    required.filter((name) => !isBuiltin(name)),
    [],
  );
  const daemon = await serveLive(t, { token: 'fleet-secret' });
  const pi = startPi(t, daemon.url);
  await begin(pi);
  await until('the refusal', () => /missing Authorization header/.test(pi.status() ?? ''));
});
