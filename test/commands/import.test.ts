import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { Vm } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { FLEET, fleetOf } from '../helpers/fleet.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

test('import keeps the times of each entry, reefConfig and parentVmId, and is not a sign of life', async (t) => {
  const [from, to] = [await serveApp(t), await serveApp(t)];
  const reef = { parentId: 'golden', parentVmId: 'golden', reefConfig: { services: ['board'], capabilities: ['gpu'] } };
  for (const vm of [aVm({ id: 'a' }), aVm({ id: 'b', ...reef })]) {
    await from.registry.register(vm);
    from.clock.pass(1000);
  }
  const { stdout } = await vreg(['export'], { url: from.url });
  to.clock.pass(1_000_000);
  const reversed = stdout.trim().split('\n').reverse().join('\n');
  const result = await vreg(['import', '-f', '-', '--yes', '-q'], { url: to.url, stdin: reversed });
  assert.deepEqual(result, { code: 0, stdout: 'b\na\n', stderr: '' });
  const entriesOf = ({ registry }: typeof to) => registry.list({}).map(({ json }) => JSON.parse(json) as Vm);
  assert.deepEqual(entriesOf(to), entriesOf(from));
  assert.deepEqual(to.registry.discover('worker'), []);
});

test('import sends thousands of entries in a few requests, and reports each entry that is not registered', async (t) => {
  const { url, registry, logged } = await serveApp(t);
  const entries = Array.from({ length: 2500 }, (_, n) => aVm({ id: `vm-${n}` }));
  const list = registry.registeredBefore.bind(registry);
  // Another client registers two of the ids after the command has read the list.
  registry.registeredBefore = (...page) => {
    const found = [...list(...page)];
    for (const id of ['vm-7', 'vm-2007']) void registry.register(aVm({ id, name: 'theirs' }));
    registry.registeredBefore = list;
    return found;
  };
  const result = await vreg(['import', '-f', '-', '--yes', '-q'], { url, stdin: JSON.stringify(entries) });
  assert.deepEqual(
    [result.code, result.stderr.split('\n').slice(0, 3)],
    [4, ['vreg: vm-7: VM already registered', 'vreg: vm-2007: VM already registered', 'vreg: 2 of 2500 failed']],
  );
  assert.equal(result.stdout.split('\n').length - 1, 2498);
  assert.equal(registry.list({}).length, 2500);
  assert.equal(logged.filter((line) => line.includes('/registry/import')).length, 3);
});

test('the loss of a response is one error for all entries of the request, and the hint names the comparison', async (t) => {
  const { url, registry, server } = await serveApp(t);
  const importAll = registry.import.bind(registry);
  let requests = 0;
  registry.import = async (...args) => {
    const outcomes = await importAll(...args);
    if (++requests <= 2) server.closeAllConnections();
    return outcomes;
  };
  const stdin = JSON.stringify(Array.from({ length: 2500 }, (_, n) => aVm({ id: `vm-${n}` })));
  const result = await vreg(['import', '-f', '-', '--yes', '-q'], { url, stdin });
  assert.deepEqual([result.code, result.stdout.split('\n').length - 1], [6, 500]);
  const [first, second, ...more] = result.stderr.trimEnd().split('\n');
  assert.match(first!, /^vreg: the outcome of 1000 entries \("vm-0" to "vm-999"\) is unknown: no response to POST /);
  assert.match(
    second!,
    /^vreg: the outcome of 1000 entries \("vm-1000" to "vm-1999"\) is unknown: no response to POST /,
  );
  const hint = 'hint: compare the file with the registry: vreg import --dry-run -f FILE';
  assert.deepEqual(more, ['vreg: 2000 of 2500 failed', hint]);
});

test('against a registry without imports, entries are registered with new times, and a note says so', async (t) => {
  const { url } = await startPlainServer(t);
  const times = { registeredAt: '2025-06-01T00:00:00.000Z', lastSeen: '2025-06-02T00:00:00.000Z' };
  const note = 'vreg: this registry does not support imports, so registeredAt and lastSeen will be the current time\n';
  const send = (entries: object[]) =>
    vreg(['import', '-f', '-', '--yes', '-q'], { url, stdin: JSON.stringify(entries) });
  assert.deepEqual(await send([{ ...aVm({ id: 'a' }), ...times }]), { code: 0, stdout: 'a\n', stderr: note });
  assert.deepEqual(await send([aVm({ id: 'b' })]), { code: 0, stdout: 'b\n', stderr: '' });
  const [a] = ((await fleetOf(url)) as Vm[]).filter(({ id }) => id === 'a');
  assert.notEqual(a!.registeredAt, times.registeredAt);
});

test('an import without the scope admin exits with 2 and names the scope', async (t) => {
  const { url, authenticator, registry } = await serveApp(t, { token: 's3cret' });
  const { token } = await authenticator.tokens.create({ name: 'w', scope: 'write' }, 'test');
  const env = { VERS_AUTH_TOKEN: token };
  const result = await vreg(['import', '-f', '-', '--yes'], { url, env, stdin: JSON.stringify([aVm()]) });
  assert.deepEqual([result.code, registry.revision], [2, 1], result.stderr);
  assert.match(result.stderr, /requires admin/);
});

test('import reads data/registry.json of the original server', async (t) => {
  const { url } = await serveApp(t);
  const file = join(tempDir(t), 'registry.json');
  const times = { registeredAt: '2025-06-01T00:00:00.000Z', lastSeen: '2025-06-02T00:00:00.000Z' };
  const vms = FLEET.slice(0, 3).map((vm) => ({ ...vm, ...times }));
  writeFileSync(file, JSON.stringify({ vms }, null, 2));
  assert.deepEqual(await vreg(['import', '-f', file, '--yes', '-q'], { url }), {
    code: 0,
    stdout: 'i\nw1\nw2\n',
    stderr: '',
  });
  assert.deepEqual(await fleetOf(url), FLEET.slice(0, 3));
});

const THERE = [aVm({ id: 'same' }), aVm({ id: 'other', name: 'old', metadata: { a: 1, b: 2 } })];
const FILE = JSON.stringify([
  aVm({ id: 'same' }),
  aVm({ id: 'other', name: 'new', address: '10.0.0.9', metadata: { b: 2, a: 1 } }),
  aVm({ id: 'fresh' }),
]);

for (const [ifExists, action] of [
  [[], 'conflict'],
  [['--if-exists', 'update'], 'change'],
  [['--if-exists', 'ignore'], 'skip'],
] as const) {
  test(`--dry-run ${ifExists.join(' ')} prints the plan and changes nothing`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, THERE);
    const before = await fleetOf(url);
    assert.deepEqual(await vreg(['import', '-f', '-', '--dry-run', ...ifExists], { url, stdin: FILE }), {
      code: 0,
      stdout: `ID\tACTION\tFIELDS\nsame\tsame\t-\nother\t${action}\tname,address\nfresh\tadd\t-\n`,
      stderr: '',
    });
    assert.deepEqual(await fleetOf(url), before);
  });
}

test('an entry that is registered with different values exits with 4, and nothing is changed', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, THERE);
  const before = await fleetOf(url);
  assert.deepEqual(await vreg(['import', '-f', '-', '--yes'], { url, stdin: FILE }), {
    code: 4,
    stdout: '',
    stderr:
      'vreg: 1 of 3 entries are already registered with different values: other (name, address)\nhint: nothing was changed; preview with --dry-run, then pass --if-exists update or ignore\n',
  });
  assert.deepEqual(await fleetOf(url), before);
});

test('--if-exists update changes a registered entry, ignore keeps it, and both add new entries', async (t) => {
  for (const [what, name] of [
    ['update', 'new'],
    ['ignore', 'old'],
  ]) {
    const { url } = await serveApp(t);
    await seed(url, THERE);
    const result = await vreg(['import', '-f', '-', '--yes', '-q', '--if-exists', what!], { url, stdin: FILE });
    assert.equal(result.code, 0);
    const names = Object.fromEntries(((await fleetOf(url)) as Vm[]).map((vm) => [vm.id, vm.name]));
    assert.deepEqual(names, { same: 'one', other: name, fresh: 'one' });
  }
});

test('import asks for confirmation with the counts, and exits with 7 without a terminal', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, THERE);
  const argv = ['import', '-f', '-', '--if-exists', 'update'];
  const result = await vreg(argv, { url, stdin: FILE, answers: ['n'] });
  assert.equal(result.code, 7);
  assert.match(result.stderr, /^Add 1, change 1 of 3 entries\? \[y\/N\] n\n/);
  assert.equal((await vreg(argv, { url, stdin: FILE })).code, 7);
  assert.equal(store.vms.size, 2);
});

test('import notes that the original registry cannot change a role', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  const stdin = JSON.stringify(aVm({ id: 'a', role: 'infra', name: 'new' }));
  const result = await vreg(['import', '-f', '-', '--yes', '--if-exists', 'update'], { url, stdin });
  assert.deepEqual(
    [result.code, result.stderr],
    [0, 'vreg: a keeps the role worker: this registry cannot change roles\n'],
  );
});

const BROKEN: readonly [name: string, text: string, message: RegExp][] = [
  [
    'no JSON',
    'hello',
    /^vreg: .*registry\.json is not JSON: .*\nhint: use one entry, an array, or one entry per line\n$/,
  ],
  [
    'a line that is not JSON',
    `${JSON.stringify(aVm())}\n{nope\n`,
    /^vreg: .*: line 2 is not JSON: .*\nhint: nothing was registered; /,
  ],
  [
    'an entry without a role',
    '[{"id":"a","name":"a","address":"a","registeredBy":"a"}]',
    /^vreg: .*: entry 1: role .*\nhint: nothing was registered/,
  ],
  [
    'an invalid time',
    JSON.stringify([aVm(), { ...aVm(), lastSeen: 'yesterday' }]),
    /^vreg: .*: entry 2: invalid lastSeen: yesterday .*\nhint: nothing was registered/,
  ],
  ['an entry that is not an object', '{"vms":[7]}', /^vreg: .*: entry 1: .*\nhint: /],
  [
    'a duplicate id',
    JSON.stringify([aVm({ id: 'a' }), aVm({ id: 'a' })]),
    /^vreg: entry 2: duplicate id "a"\nhint: nothing was changed; /,
  ],
];

for (const [name, text, message] of BROKEN) {
  test(`a file with ${name} exits with 5, and nothing is changed`, async (t) => {
    const { url, store } = await serveApp(t);
    const file = join(tempDir(t), 'registry.json');
    writeFileSync(file, text);
    const result = await vreg(['import', '-f', file, '--yes'], { url });
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
    assert.equal(store.vms.size, 0);
  });
}

test('import without a file or with a missing file exits with 5', async () => {
  assert.match((await vreg(['import'])).stderr, /^vreg: --file is required\nhint: for example: vreg import -f /);
  const result = await vreg(['import', '-f', '/nonexistent/x']);
  assert.deepEqual(
    [result.code, result.stderr],
    [5, 'vreg: cannot read /nonexistent/x (ENOENT)\nhint: check its path and mode\n'],
  );
});
