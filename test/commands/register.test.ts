import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { userName } from '../../src/fleet/local-vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

async function entry(url: string, id: string): Promise<Record<string, unknown>> {
  return (await call(url, 'GET', `/registry/vms/${id}`)).body as Record<string, unknown>;
}

test('without flags this machine is registered as a worker', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['register', '-q'], { url }), { code: 0, stdout: `${hostname()}\n`, stderr: '' });
  const { registeredAt, lastSeen, ...rest } = await entry(url, hostname());
  assert.deepEqual(rest, {
    id: hostname(),
    name: hostname(),
    role: 'worker',
    status: 'running',
    address: `${hostname()}.vm.vers.sh`,
    registeredBy: userName(),
  });
  assert.equal(registeredAt, lastSeen);
});

test('VERS_* variables supply the fields that no flag sets', async (t) => {
  const { url } = await serveApp(t);
  const env = { VERS_VM_ID: 'vm-9', VERS_AGENT_NAME: 'nine', VERS_AGENT_ROLE: 'lieutenant' };
  const { stdout } = await vreg(['reg', '--json'], { url, env });
  const { role, name, registeredBy, address } = JSON.parse(stdout) as Record<string, string>;
  assert.deepEqual([role, name, registeredBy, address], ['lieutenant', 'nine', 'nine', 'vm-9.vm.vers.sh']);
});

test('each field has a flag', async (t) => {
  const { url } = await serveApp(t);
  const flags =
    '--name n --role golden --address 10.0.0.1 --registered-by me --status paused --service a:1 --service b:2/h';
  const meta = ['--meta', 'text=a b', '--meta', 'list=[1,{"x":null}]', '--meta', 'empty=', '--meta', 'eq=a=b'];
  const { code } = await vreg(['register', 'x', ...flags.split(' '), ...meta], { url });
  assert.equal(code, 0);
  const { registeredAt: _at, lastSeen: _seen, ...rest } = await entry(url, 'x');
  assert.deepEqual(rest, {
    id: 'x',
    name: 'n',
    role: 'golden',
    status: 'paused',
    address: '10.0.0.1',
    services: [
      { name: 'a', port: 1 },
      { name: 'b', port: 2, healthPath: '/h' },
    ],
    metadata: { text: 'a b', list: [1, { x: null }], empty: '', eq: 'a=b' },
    registeredBy: 'me',
  });
});

const META: readonly [text: string, value: unknown][] = [
  ['1', 1],
  ['true', true],
  ['null', null],
  ['"1"', '1'],
  ['{"a":[]}', { a: [] }],
  ['1.2.3', '1.2.3'],
  ['yes', 'yes'],
  ['{', '{'],
];

for (const [text, value] of META) {
  test(`--meta k=${text} sets ${JSON.stringify(value)}`, async (t) => {
    const { url } = await serveApp(t);
    const { stdout } = await vreg(['register', 'x', '--json', '--meta', `k=${text}`], { url });
    assert.deepEqual((JSON.parse(stdout) as { metadata: unknown }).metadata, { k: value });
  });
}

const REFUSED: readonly [argv: string, message: RegExp][] = [
  ['register x --service api', /^vreg: invalid --service "api"\nhint: use NAME:PORT/],
  ['register x --service api:0', /^vreg: invalid --service "api:0"/],
  ['register x --service api:65536', /^vreg: invalid --service "api:65536"/],
  ['register x --meta task', /^vreg: invalid --meta "task"\nhint: use KEY=VALUE/],
  ['register x --meta =1', /^vreg: invalid --meta "=1"\n/],
  ['register x --role boss', /^vreg: invalid role "boss" \(from flag --role\)\nhint: one of: infra, /],
  ['register x --status gone', /^vreg: invalid --status "gone"\nhint: one of: running, paused, stopped\n$/],
  ['register x --if-exists maybe', /^vreg: invalid --if-exists "maybe"\nhint: one of: fail, update, ignore\n$/],
  ['register x y', /^vreg: too many arguments for 'register'.*\nhint: see the usage: vreg register --help\n$/],
  ['register x -f -', /^vreg: --file cannot be combined with an id\nhint: put the id into the file\n$/],
  ['register x --name', /^vreg: option '--name <NAME>' argument missing\nhint: see the usage: vreg register --help\n$/],
  ['register x -o xml', /^vreg: invalid output "xml" \(from flag --output\)\nhint: one of: table, /],
  ['register -f /nonexistent', /^vreg: cannot read \/nonexistent \(ENOENT\)\nhint: check its path and mode\n$/],
];

for (const [argv, message] of REFUSED) {
  test(`vreg ${argv} exits with 5 and registers nothing`, async (t) => {
    const { url, store } = await serveApp(t);
    const { code, stdout, stderr } = await vreg(argv.split(' '), { url });
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, message);
    assert.equal(store.vms.size, 0);
  });
}

test('a registered id exits with 4, unless --if-exists is given', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'x', name: 'before' })]);
  const again = ['register', 'x', '--name', 'after', '--role', 'worker'];
  assert.deepEqual(await vreg(again, { url }), {
    code: 4,
    stdout: '',
    stderr: 'vreg: VM "x" is already registered\nhint: change it with vreg update, or pass --if-exists update\n',
  });
  assert.equal((await vreg([...again, '--if-exists', 'fail'], { url })).code, 4);
  assert.deepEqual(await vreg([...again, '--if-exists', 'ignore', '-q'], { url }), {
    code: 0,
    stdout: 'x\n',
    stderr: '',
  });
  assert.equal((await entry(url, 'x')).name, 'before');
  assert.deepEqual(await vreg([...again, '--if-exists', 'update', '-q'], { url }), {
    code: 0,
    stdout: 'x\n',
    stderr: '',
  });
  assert.equal((await entry(url, 'x')).name, 'after');
});

const ONE = { id: 'a', name: 'a', role: 'worker', address: 'a', registeredBy: 'f' };
const TWO = { ...ONE, id: 'b' };
const FILES: readonly [name: string, text: string, ids: string][] = [
  ['one object', JSON.stringify(ONE, null, 2), 'a\n'],
  ['an array', JSON.stringify([ONE, TWO]), 'a\nb\n'],
  ['NDJSON', `${JSON.stringify(ONE)}\n\n${JSON.stringify(TWO)}\n`, 'a\nb\n'],
  ['an empty array', '[]', ''],
];

for (const [name, text, ids] of FILES) {
  test(`a file with ${name} is registered from a path or from stdin`, async (t) => {
    const file = join(tempDir(t), 'fleet');
    writeFileSync(file, text);
    const first = await serveApp(t);
    const fromPath = await vreg(['register', '-f', file, '-q'], { url: first.url });
    assert.deepEqual(fromPath, { code: 0, stdout: ids, stderr: '' });
    const second = await serveApp(t);
    const fromStdin = await vreg(['register', '--file', '-', '-q'], { url: second.url, stdin: text });
    assert.deepEqual(fromStdin, { code: 0, stdout: ids, stderr: '' });
  });
}

test('JSON output has the shape of the file: an entry for an entry, a list for a list', async (t) => {
  const { url } = await serveApp(t);
  const shapeOf = async (value: unknown) =>
    JSON.parse(
      (await vreg(['register', '-f', '-', '--json'], { url, stdin: JSON.stringify(value) })).stdout,
    ) as unknown;
  assert.ok(!Array.isArray(await shapeOf(ONE)));
  assert.ok(Array.isArray(await shapeOf([TWO])));
  assert.deepEqual(await shapeOf([]), []);
});

const BAD_FILES: readonly [name: string, text: string, message: RegExp][] = [
  [
    'an invalid entry',
    JSON.stringify([ONE, { id: 'b', name: null }]),
    /^vreg: stdin: entry 2: name is required\nhint: nothing/,
  ],
  [
    'an invalid field in NDJSON',
    `${JSON.stringify(ONE)}\n{"id":1}\n`,
    /^vreg: stdin: entry 2: id must be a string, not a number\n/,
  ],
  ['a line that is not JSON', `${JSON.stringify(ONE)}\nfoo\n`, /^vreg: stdin: line 2 is not JSON: .*\nhint: /],
  ['no JSON', 'foo', /^vreg: stdin is not JSON: .*\nhint: use one entry, an array, or one entry per line\n$/],
  ['no content', '', /^vreg: stdin is empty\nhint: did the command before the pipe fail\?\n$/],
  ['only blanks', ' \n\n', /^vreg: stdin is empty\nhint: /],
  ['one invalid entry', '{"id":"a","role":"x"}', /^vreg: stdin: invalid role: x .*\nhint: nothing/],
  ['a number', '1', /^vreg: stdin: body must be a JSON object, not a number\nhint: nothing/],
];

for (const [name, stdin, message] of BAD_FILES) {
  test(`a file with ${name} is rejected completely, with the cause`, async (t) => {
    const { url, store } = await serveApp(t);
    const { code, stdout, stderr } = await vreg(['register', '-f', '-'], { url, stdin });
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, message);
    assert.equal(store.vms.size, 0);
  });
}

test('another VM takes its id as name, and does not take the name, role and address of this VM', async (t) => {
  const { url } = await serveApp(t);
  const env = {
    VERS_VM_ID: 'vm-9',
    VERS_AGENT_NAME: 'nine',
    VERS_AGENT_ROLE: 'infra',
    VREG_ADDRESS: '10.0.0.9',
  };
  const fields = async (argv: string, stdin?: string) => {
    const result = await vreg(['register', ...argv.split(' '), '--json'], { url, env, ...(stdin && { stdin }) });
    assert.deepEqual([result.code, result.stderr], [0, '']);
    const { name, role, address, registeredBy } = JSON.parse(result.stdout) as Record<string, string>;
    return [name, role, address, registeredBy].join(' ');
  };
  assert.equal(await fields('abc'), 'abc worker abc.vm.vers.sh nine');
  assert.equal(await fields('abd --name n --role golden --address h --registered-by me'), 'n golden h me');
  assert.equal(await fields('vm-9'), 'nine infra 10.0.0.9 nine');
  assert.equal(await fields('-f -', '{"id":"abe"}'), 'abe worker abe.vm.vers.sh nine');
  assert.equal((await vreg(['register', 'abf', '-q'], { url })).code, 0);
  assert.equal((await entry(url, 'abf')).name, 'abf');
  const heartbeat = await vreg(['heartbeat', 'abg', '--register-if-missing', '-q'], { url, env });
  assert.deepEqual([heartbeat.code, (await entry(url, 'abg')).name], [0, 'abg']);
});

test('flags and defaults supply the fields that entries of a file lack', async (t) => {
  const { url } = await serveApp(t);
  const stdin = `{"id":"a"}\n{"id":"b","name":"bee","role":"infra","metadata":{"own":1},"status":"stopped"}\n`;
  const flags = [
    '--role',
    'golden',
    '--meta',
    'k=v',
    '--service',
    'api:80',
    '--status',
    'paused',
    '--registered-by',
    'me',
  ];
  assert.equal((await vreg(['register', '-f', '-', ...flags], { url, stdin })).code, 0);
  const { registeredAt: _a, lastSeen: _b, ...a } = await entry(url, 'a');
  const services = [{ name: 'api', port: 80 }];
  assert.deepEqual(a, {
    id: 'a',
    name: 'a',
    role: 'golden',
    status: 'paused',
    address: 'a.vm.vers.sh',
    services,
    metadata: { k: 'v' },
    registeredBy: 'me',
  });
  const { name, role, status, metadata } = await entry(url, 'b');
  assert.deepEqual([name, role, status, metadata], ['bee', 'infra', 'stopped', { own: 1 }]);
});

test('fields of an entry take precedence over flags, and null counts as missing', async (t) => {
  const { url } = await serveApp(t);
  const flags = ['--parent', 'w1', '--status', 'paused', '--meta', 'k=v', '--service', 'api:80'];
  const register = async (fields: object) => {
    const stdin = JSON.stringify(fields);
    const { code, stderr } = await vreg(['register', '-f', '-', ...flags], { url, stdin });
    assert.equal(code, 0, stderr);
  };
  await register({ id: 'a', parentVmId: 'a1' });
  await register({ id: 'b', parentId: 'a1' });
  await register({ id: 'c', parentId: null, parentVmId: null, status: null, metadata: null, services: null });
  assert.deepEqual([(await entry(url, 'a')).parentId, (await entry(url, 'a')).parentVmId], ['a1', 'a1']);
  assert.equal((await entry(url, 'b')).parentId, 'a1');
  const { parentId, status, metadata, services } = await entry(url, 'c');
  assert.deepEqual([parentId, status, metadata], ['w1', 'paused', { k: 'v' }]);
  assert.deepEqual(services, [{ name: 'api', port: 80 }]);
});

test('an entry of a file without an id is this VM', async (t) => {
  const { url } = await serveApp(t);
  const env = { VERS_VM_ID: 'vm-9', VERS_AGENT_NAME: 'nine' };
  assert.equal((await vreg(['register', '-f', '-', '-q'], { url, env, stdin: '{"role":"infra"}' })).stdout, 'vm-9\n');
  assert.equal((await entry(url, 'vm-9')).name, 'nine');
});

test('reading entries from a terminal prints a note', async () => {
  const { stderr } = await vreg(['register', '-f', '-']);
  assert.match(stderr, /^vreg: reading from the terminal; end with Ctrl-D\n/);
});

test('valid entries of a file are registered, and failures are reported with the worst exit code', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const result = await vreg(['register', '-f', '-', '-q'], { url, stdin: JSON.stringify([ONE, TWO]) });
  assert.deepEqual(result, {
    code: 4,
    stdout: 'b\n',
    stderr:
      'vreg: 1 of 2 failed: VM "a" is already registered\nhint: change it with vreg update, or pass --if-exists update\n',
  });
});

test('--if-exists update changes the role', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'x', role: 'infra' })]);
  const { code, stdout, stderr } = await vreg(['register', 'x', '--if-exists', 'update', '-o', 'json'], { url });
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(JSON.parse(stdout).role, 'worker');
});

test('--if-exists update keeps reefConfig and parentVmId, which no flag sets, unless the parent changes', async (t) => {
  const { url } = await serveApp(t);
  const reefConfig = { services: ['board'], capabilities: [] };
  await seed(url, [aVm({ id: 'x', parentVmId: 'p', reefConfig })]);
  const update = async (...flags: string[]) => {
    const { code, stderr } = await vreg(['register', 'x', '--if-exists', 'update', ...flags], { url });
    assert.deepEqual([code, stderr], [0, '']);
    const { name, parentId, parentVmId, reefConfig: config } = await entry(url, 'x');
    assert.deepEqual(config, reefConfig);
    return [name, parentId, parentVmId];
  };
  assert.deepEqual(await update('--name', 'n'), ['n', 'p', 'p']);
  assert.deepEqual(await update('--name', 'm', '--parent', 'p'), ['m', 'p', 'p']);
  assert.deepEqual(await update('--parent', 'q'), ['x', 'q', undefined]);
  assert.equal((await vreg(['register', 'new', '--if-exists', 'update'], { url })).code, 0);
});

test('JSON that is nested too deeply exits with 5, in a file and in a flag', async (t) => {
  const { url, store } = await serveApp(t);
  for (const depth of [127, 20_000]) {
    const value = `${'['.repeat(depth)}${']'.repeat(depth)}`;
    const stdin = JSON.stringify({ ...aVm(), metadata: { a: 1 } }).replace('"a":1', `"a":${value}`);
    const fromFile = await vreg(['register', '-f', '-'], { url, stdin });
    assert.deepEqual([fromFile.code, /nested more than 128 levels deep/.test(fromFile.stderr)], [5, true]);
    const flags = ['--name', 'a', '--role', 'worker', '--address', 'a', '--registered-by', 'me'];
    const fromFlag = await vreg(['register', 'vm-2', ...flags, '--meta', `a=${value}`], { url });
    assert.deepEqual([fromFlag.code, /nested more than 128 levels deep/.test(fromFlag.stderr)], [5, true]);
  }
  assert.equal(store.vms.size, 0);
});
