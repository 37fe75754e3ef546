import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { readProcesses } from '../../daemon/process/pid-file.ts';
import { SCOPES } from '../../src/protocol/token.ts';
import { copyState, find, heardTwice, startAgent } from '../helpers/agent/agent.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, type VregOptions, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { openUndici } from '../helpers/transports.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const env = { VERS_VM_ID: 'a' };
const FAMILY = [
  aVm({ id: 'root', role: 'infra', address: '10.0.0.5' }),
  aVm({ id: 'a', parentId: 'root' }),
  aVm({ id: 'b', parentId: 'root' }),
];

test('whoami shows the VM, its relatives, its registry, infra and the token', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FAMILY);
  const { code, stdout, stderr } = await vreg(['whoami', '-o', 'json'], { url, env });
  assert.deepEqual([code, stderr], [0, '']);
  const { vm, ...rest } = JSON.parse(stdout) as { vm: Record<string, unknown> };
  const { registeredAt, ...more } = vm;
  assert.equal(typeof registeredAt, 'string');
  assert.deepEqual(more, {
    id: 'a',
    idOrigin: 'VERS_VM_ID',
    incarnation: null,
    clone: 'unproven',
    conflictsKnown: true,
    parentId: 'root',
    siblings: ['b'],
    registered: true,
    live: 'live',
  });
  assert.deepEqual(rest, {
    registry: { url, reachable: true },
    infra: ['10.0.0.5'],
    token: { name: 'anonymous', scope: 'admin' },
  });
  assert.equal((await vreg(['whoami', '-q'], { url, env })).stdout, 'a\n');
  const piped = await vreg(['whoami'], { url, env });
  assert.match(piped.stdout, /^FIELD\tVALUE\nVM\ta \(from VERS_VM_ID\)\nClone\tnot checked: .*\n(.*\n)*Siblings\tb\n/);
  const table = await vreg(['whoami'], { url, env, tty: true });
  assert.match(table.stdout, /^Token: +anonymous: scope admin$/m);
});

test('whoami on a VM that is not registered says so', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout } = await vreg(['whoami', '-o', 'json'], { url, env });
  const { vm } = JSON.parse(stdout) as { vm: Record<string, unknown> };
  assert.deepEqual([code, vm.registered, vm.registeredAt, vm.siblings], [0, false, null, []]);
});

test('whoami answers from the original registry, which has no tokens of this kind', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  const { code, stdout } = await vreg(['whoami', '-o', 'json'], { url, env });
  const { vm, token } = JSON.parse(stdout) as { vm: { registered: boolean }; token: unknown };
  assert.deepEqual([code, vm.registered, token], [0, true, null]);
  // An agent could not prove the identity of this VM there.
  assert.match((await vreg(['whoami'], { url, env })).stdout, /^Clone\tnot checked: no agent has proved .* this VM$/m);
});

test('whoami proposes to start an agent only if none runs', async (t) => {
  const state = tempDir(t);
  const options = { url: 'http://127.0.0.1:1', env: { VERS_VM_ID: 'vm-1', VREG_DATA_DIR: state } };
  const clone = async () => /^Clone\t(.*)$/m.exec((await vreg(['whoami'], options)).stdout)?.[1];
  const text = 'not checked: no agent has proved the identity of this VM';
  assert.equal(await clone(), `${text} (start one: vreg daemon agent --detach)`);
  startAgent(t, options.url, ['--data-dir', state]);
  await until('the agent', () => readProcesses(state, 'agent').length > 0);
  assert.equal(await clone(), text);
});

test('whoami without an id names the VMs whose agents run on this machine, and proposes no further agent', async (t) => {
  const { state, daemon } = await withAgent(t);
  const { code, stdout, stderr } = await vreg(['whoami'], { url: daemon.url, env: { VREG_DATA_DIR: state } });
  assert.equal(code, 0);
  assert.match(stdout, /^VM\t.* \(from the host name\)\nClone\tnot checked: no agent has proved .* this VM$/m);
  assert.equal(
    stderr,
    'vreg: no id is configured (VERS_VM_ID), so the answer is for the host name; agents on this machine run for: vm-1\n',
  );
});

test('whoami names the registry to which the agent of this VM sends heartbeats if it is another one', async (t) => {
  const { state, daemon, whoami } = await withAgent(t);
  assert.equal((await whoami(state)).stderr, '');
  const { url } = await serveApp(t);
  const elsewhere = await vreg(['whoami', '--id', 'vm-1', '--data-dir', state], { url });
  assert.match(elsewhere.stdout, /^Registered\tno$/m);
  assert.equal(
    elsewhere.stderr,
    `vreg: the agent of this VM sends heartbeats to ${daemon.url}; if that is another registry: vreg daemon stop agent, then vreg daemon agent --detach\n`,
  );
});

/** A VM whose agent has sent heartbeats, with its state in a folder. */
async function withAgent(t: TestContext) {
  const daemon = await serveLive(t);
  const state = tempDir(t);
  const agent = startAgent(t, daemon.url, ['--data-dir', state]);
  await heardTwice(daemon);
  const whoami = async (dir: string, ...args: string[]) => {
    const ran = await daemon.command(['whoami', '--id', 'vm-1', '--data-dir', dir, '-o', 'json', ...args]);
    return { ...ran, vm: (JSON.parse(ran.stdout) as { vm: Record<string, unknown> }).vm };
  };
  return { daemon, agent, state, whoami };
}

test('whoami answers from the state of the agent while the registry is away, and exits with 8', async (t) => {
  const { daemon, state, whoami } = await withAgent(t);
  const { vm, code } = await whoami(state);
  assert.deepEqual([code, vm.clone], [0, 'proven']);
  assert.match(vm.incarnation as string, /^[0-9a-f]{16}$/);
  await daemon.close();
  const away = await whoami(state);
  assert.equal(away.code, 8);
  assert.deepEqual([away.vm.id, away.vm.clone, away.vm.incarnation], ['vm-1', 'proven', vm.incarnation]);
  const { error } = JSON.parse(away.stderr) as { error: { message: string } };
  assert.match(error.message, /ECONNREFUSED.*; the answer is from the state of the agent in /);
});

test('whoami in a clone exits with 9, also while the registry is away, and tree --clones lists it', async (t) => {
  const { daemon, state, whoami } = await withAgent(t);
  const [copy, renamed] = [tempDir(t), tempDir(t)];
  copyState(state, copy);
  copyState(state, renamed);
  await heardTwice(daemon);
  const clone = startAgent(t, daemon.url, ['--data-dir', copy, '--address', '10.0.0.2']);
  assert.equal(await clone.exited(), 9);
  const rebirth = ['--on-clone', 'rebirth', '--id-command', 'echo vm-1b'];
  startAgent(t, daemon.url, ['--data-dir', renamed, '--address', '10.0.0.3', ...rebirth]);
  await until('the entry of the other clone', () => find(daemon, 'vm-1b'));

  const found = await whoami(copy);
  assert.deepEqual([found.code, found.vm.clone, found.vm.id], [9, 'clone', 'vm-1']);
  assert.match(found.stderr, /another VM holds the id/);
  const reborn = await whoami(renamed);
  assert.deepEqual([reborn.code, reborn.vm.clone, reborn.vm.id, reborn.vm.parentId], [0, 'reborn', 'vm-1b', 'vm-1']);
  assert.equal((await whoami(state)).vm.clone, 'proven');

  await until('the record to name the new id', async () =>
    /reborn as vm-1b/.test((await daemon.command(['conflicts', 'vm-1'])).stdout),
  );
  const clones = async () =>
    JSON.parse((await daemon.command(['tree', 'vm-1', '--clones', '-o', 'json'])).stdout) as Record<string, unknown>[];
  assert.deepEqual(
    (await clones())
      .map(({ id, cloneOf, state, live, address }) => [id, cloneOf, state, live, address])
      .sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)),
    [
      [null, 'vm-1', 'open', 'live', '10.0.0.2'],
      ['vm-1b', 'vm-1', 'reborn', 'live', '10.0.0.3'],
    ],
  );
  // The output of -q may be passed to vreg rm.
  assert.equal((await daemon.command(['tree', 'vm-1', '--clones', '-q'])).stdout, 'vm-1b\n');
  await daemon.close();
  assert.equal((await whoami(copy)).code, 9);
});

test('a refused VM continues under its id once the other VM is gone, as the hint of whoami says', async (t) => {
  const { daemon, agent, state, whoami } = await withAgent(t);
  const copy = tempDir(t);
  copyState(state, copy);
  await heardTwice(daemon);
  const place = ['--data-dir', copy, '--address', '10.0.0.2'];
  assert.equal(await startAgent(t, daemon.url, place).exited(), 9);
  const { code, stderr } = await whoami(copy);
  assert.equal(code, 9);
  assert.match(stderr, /; to continue as \\"vm-1\\" if the other VM is gone: vreg daemon agent --detach"/);
  await agent.end('SIGKILL');
  await daemon.command(['rm', 'vm-1', '--yes']);
  startAgent(t, daemon.url, place);
  await until('the entry', async () => (await find(daemon))?.address === '10.0.0.2');
  await until('the new verdict', async () => (await whoami(copy)).code === 0);
  assert.equal((await whoami(copy)).vm.clone, 'proven');
});

test('whoami on a VM without a state of an agent cannot say whether it is a clone', async (t) => {
  const { daemon, state } = await withAgent(t);
  const missing = join(state, 'none');
  const ran = await daemon.command(['whoami', '--id', 'vm-1', '--data-dir', missing, '-o', 'jsonpath=$.vm.clone']);
  assert.deepEqual([ran.code, ran.stdout], [0, 'unproven\n']);
});

test('whoami says what the token may not read, and answers from this VM if the token is refused', async (t) => {
  const daemon = await serveLive(t, { token: 'root-secret' });
  const whoami = async (token: string) => {
    const ran = await vreg(['whoami', '-o', 'json'], { url: daemon.url, env: { ...env, VERS_AUTH_TOKEN: token } });
    return { code: ran.code, ...(JSON.parse(ran.stdout) as { vm: Record<string, unknown>; infra?: unknown }) };
  };
  for (const [name, flags, registered] of [
    ['enrols', ['--scope', 'enrol'], null],
    ['reads', ['--scope', 'read', '--role', 'worker'], false],
  ] as const) {
    const created = await daemon.command(['token', 'create', name, ...flags, '-o', 'json']);
    const found = await whoami((JSON.parse(created.stdout) as { token: string }).token);
    assert.deepEqual([found.code, found.vm.registered, found.infra], [0, registered, null], name);
  }
  const { code, vm, infra } = await whoami('wrong-secret');
  assert.deepEqual([code, vm.id, infra], [2, 'a', undefined]);
});

test('whoami uses the token of the agent if that of the settings is missing, refused or may only enrol, unless it was revoked', async (t) => {
  const daemon = await serveLive(t, { token: 'root-secret' });
  const { stdout } = await daemon.command(['token', 'create', 'image', '--scope', 'enrol']);
  const VERS_AUTH_TOKEN = stdout.trim();
  const dir = tempDir(t);
  const enrolled = { url: daemon.url, env: { ...env, VERS_AUTH_TOKEN } };
  const first = await vreg(['heartbeat', '--state-dir', dir, '--register-if-missing', '--address', 'a'], enrolled);
  assert.equal(first.code, 0, first.stderr);
  const whoami = async (token?: string) => {
    const options = { url: daemon.url, env: { ...env, VERS_AUTH_TOKEN: token } };
    const ran = await vreg(['whoami', '--data-dir', dir, '-o', 'json'], options);
    const { vm, token: used } = JSON.parse(ran.stdout) as { vm: { registered: boolean }; token?: { name: string } };
    return [ran.code, vm.registered, used?.name];
  };
  assert.deepEqual(await whoami(VERS_AUTH_TOKEN), [0, true, 'image/a']);
  assert.deepEqual(await whoami(), [0, true, 'image/a']);
  assert.deepEqual(await whoami('root-secret'), [0, true, 'VERS_AUTH_TOKEN']);
  assert.deepEqual(await whoami('wrong-secret'), [0, true, 'image/a']);
  await daemon.command(['token', 'revoke', 'image/a', '--yes']);
  assert.deepEqual(await whoami(VERS_AUTH_TOKEN), [0, null, 'image']);
});

test('whoami says for each token what it may not read, the conflicts included', async (t) => {
  const daemon = await serveLive(t, { token: 'root-secret' });
  for (const { id, role, address } of FAMILY)
    await daemon.command(['register', id, '--role', role, '--address', address]);
  const scopes = SCOPES.map((scope) => [scope, ['--scope', scope]] as const);
  const restricted = [
    ['read-a', ['--scope', 'read', '--vm', 'a']],
    ['read-b', ['--scope', 'read', '--vm', 'b']],
    ['read-infra', ['--scope', 'read', '--role', 'infra']],
    ['write-b', ['--scope', 'write', '--vm', 'b']],
  ] as const;
  const seen = await Promise.all(
    [...scopes, ...restricted].map(async ([name, flags]) => {
      const created = await daemon.command(['token', 'create', name, ...flags, '-o', 'json']);
      const { token } = JSON.parse(created.stdout) as { token: string };
      const options = { url: daemon.url, env: { ...env, VERS_AUTH_TOKEN: token } };
      const { code, stdout } = await vreg(['whoami', '-o', 'json'], options);
      const { vm, infra } = JSON.parse(stdout) as { vm: Record<string, unknown>; infra: unknown };
      const { stdout: text } = await vreg(['whoami'], options);
      const isSaid = /^Clone\tnot checked: .*; conflicts unknown: this token may not read them$/m.test(text);
      assert.equal(isSaid, !vm.conflictsKnown, `${name}: ${text}`);
      return [name, code, vm.registered, vm.conflictsKnown, infra];
    }),
  );
  const infra = ['10.0.0.5'];
  assert.deepEqual(seen, [
    ...['read', 'heartbeat', 'register', 'write', 'admin'].map((scope) => [scope, 0, true, true, infra]),
    ['enrol', 0, null, false, null],
    ['read-a', 0, true, true, null],
    ['read-b', 0, null, false, null],
    ['read-infra', 0, null, false, infra],
    ['write-b', 0, true, true, infra],
  ]);
});

test('whoami with nothing configured says what to set, and prints no answer', async () => {
  const unset = { VERS_INFRA_URL: undefined };
  // Instead of the default URL, where this machine may run a registry.
  const openTransport: VregOptions['openTransport'] = (_, ...rest) =>
    openUndici(new URL('http://127.0.0.1:1'), ...rest);
  const found = await vreg(['whoami'], { env: unset, openTransport });
  assert.deepEqual([found.code, found.stdout], [5, '']);
  assert.match(found.stderr, /^vreg: no registry and no id are configured, .* no agent has stored which VM this is\n/);
  assert.match(
    found.stderr,
    /\nhint: set VERS_INFRA_URL to .* and VERS_VM_ID to .*, or start a registry: vreg daemon\n/,
  );
  assert.deepEqual((await vreg(['whoami', '-q'], { env: unset, openTransport })).stdout, '');

  const named = await vreg(['whoami', '-q'], { env: { ...unset, ...env }, openTransport });
  assert.deepEqual([named.code, named.stdout], [8, 'a\n']);
  assert.match(
    named.stderr,
    /no registry is configured \(VERS_INFRA_URL\), and .*; the answer is from the settings of /,
  );
});
