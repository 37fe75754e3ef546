/** Entries of a registry that enforces no rules, such as the original: their ids and addresses must not reach a script. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import type { VmWithLiveness } from '../../src/protocol/api.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const IDS = ['-uhttp://evil.example', 'a -u http://evil.example', '"--url=http://evil.example"'];
const ADDRESSES = ['-oProxyCommand=reboot', '10.0.0.6 10.0.0.7', '$(reboot)', 'a;} server { listen 81', "a'b", 'é', ''];
const GOOD = aVm({ id: 'good', address: 'http://10.0.0.1:81/', services: [{ name: 'api', port: 82 }] });
const BAD = [
  ...IDS.map((id) => aVm({ id, address: '10.0.0.9', services: GOOD.services! })),
  ...ADDRESSES.filter((address) => address !== '').map((address, n) =>
    aVm({ id: `bad-${n}`, address, services: GOOD.services! }),
  ),
];

/** The original registry with hostile entries, all of them older than the good one, which `addr` would pick last. */
async function hostileRegistry(t: TestContext, vms = [...BAD, GOOD]): Promise<string> {
  const { url } = await startPlainServer(t);
  await seed(url, vms);
  return url;
}

function assertHarmless(text: string): void {
  for (const hostile of [...IDS, ...ADDRESSES.slice(0, -1)])
    assert.equal(text.includes(hostile), false, `${hostile} in ${text}`);
}

const PRINTED: readonly [argv: string, stdout: RegExp][] = [
  ['addr worker', /^10\.0\.0\.1:81\n$/],
  ['addr worker --json', /"address": "10\.0\.0\.1:81"/],
  ['url worker --path /x', /^http:\/\/10\.0\.0\.1:81\/x\n$/],
  ['url worker --service api', /^http:\/\/10\.0\.0\.1:82\n$/],
  ['discover worker -q', /^good\n$/],
  ['discover worker', /^ID.*\ngood\t.*\t10\.0\.0\.1:81\t[^\n]*\n$/],
  ['discover worker --json', /^\[\n {2}\{\n {4}"id": "good",/],
  ['wait worker -q', /^good\n$/],
  ['env worker', /^VREG_WORKER_ID=good\nVREG_WORKER_ADDR=10\.0\.0\.1:81\n.*\nVREG_WORKER_ADDRS=10\.0\.0\.1:81\n$/],
  ['env --fish', /^set -gx VREG_WORKER_ID 'good'\n(set .*\n){3}$/],
  ['exec worker -- sh -c env', /VREG_VM_ADDRESS=10\.0\.0\.1:81\n/],
  ['export', /^\{"id":"good",[^\n]*\}\n$/],
  ['export -o json', /^\[\n {2}\{\n {4}"id": "good",/],
  ['ls -o jsonpath={[*].address}', /^10\.0\.0\.1:81\n$/],
  ['ls -o template={{address}}\\n', /^10\.0\.0\.1:81\n$/],
];

for (const [argv, expected] of PRINTED) {
  test(`vreg ${argv} omits hostile entries and prints a warning`, async (t) => {
    const url = await hostileRegistry(t);
    const words = argv.split(' ');
    // The child of exec writes to the stdout of this process, so it is redirected to a file.
    const file = join(tempDir(t), 'out');
    if (words[0] === 'exec') words[words.length - 1] = `env > ${file}`;
    const { code, stdout, stderr } = await vreg(words, { url });
    assert.equal(code, 0, stderr);
    const output = words[0] === 'exec' ? readFileSync(file, 'utf8') : stdout;
    assert.match(output, expected);
    assertHarmless(output);
    for (const { id } of BAD) assert.ok(stderr.includes(`VM "${id}" is not safe to use in scripts: `), stderr);
    assert.match(
      stderr,
      /VM "bad-0" is not safe to use in scripts: invalid address "-oProxyCommand=reboot": .*; it is omitted\n/,
    );
  });
}

for (const argv of [
  'addr worker',
  'url worker',
  'env worker',
  'discover worker',
  'exec worker -- true',
  'addr worker --wait 3s',
]) {
  test(`vreg ${argv} exits with 5 if every live VM is hostile, and names the VM and the field`, async (t) => {
    const url = await hostileRegistry(t, [aVm({ id: 'bad', address: '$(reboot)' })]);
    // Each call of the clock is a second later, so that the wait ends.
    let now = 0;
    const result = await vreg(argv.split(' '), { url, now: () => (now += 1000) });
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.equal(
      result.stderr,
      'vreg: VM "bad" is not safe to use in scripts: invalid address "$(reboot)": use a host name, an IPv4 or an IPv6 address, each optionally with :port\n' +
        'hint: correct the entry (vreg update ID --address ADDRESS) or remove it (vreg rm -- ID)\n',
    );
  });
}

for (const argv of ['ls -q', 'tree -q', 'ls -o name']) {
  test(`vreg ${argv} prints no id that a command would take for a flag`, async (t) => {
    const url = await hostileRegistry(t);
    const { code, stdout, stderr } = await vreg(argv.split(' '), { url });
    assert.equal(code, 0);
    assert.deepEqual(stdout.trimEnd().split('\n').sort(), [
      'bad-0',
      'bad-1',
      'bad-2',
      'bad-3',
      'bad-4',
      'bad-5',
      'good',
    ]);
    for (const id of IDS)
      assert.ok(
        stderr.includes(`"${id}" is not safe to use in scripts: a command would take it for a flag; it is omitted`),
      );
  });
}

test('hostile entries remain readable: JSON and YAML contain them, and a piped table omits their addresses', async (t) => {
  const url = await hostileRegistry(t);
  const all = JSON.parse((await vreg(['ls', '-o', 'json'], { url })).stdout) as VmWithLiveness[];
  assert.deepEqual(all.map(({ address }) => address).sort(), [...BAD, GOOD].map(({ address }) => address).sort());
  for (const id of IDS) {
    const { code, stdout } = await vreg(['get', '-o', 'json', '--', id], { url });
    assert.deepEqual([code, (JSON.parse(stdout) as VmWithLiveness).id], [0, id]);
    assert.equal((await vreg(['get', '--', id], { url })).code, 0);
  }
  assert.match((await vreg(['ls', '-o', 'yaml'], { url })).stdout, /address: \$\(reboot\)/);
  const { stdout, stderr } = await vreg(['ls'], { url });
  const rows = stdout.trimEnd().split('\n').slice(1);
  assert.equal(rows.length, BAD.length + 1 - IDS.length);
  for (const id of IDS) assert.ok(stderr.includes(`VM "${id}" is not safe to use in scripts: `), stderr);
  const addresses = new Set(rows.map((row) => row.split('\t')[5]));
  assert.deepEqual([...addresses].sort(), ['-', '10.0.0.1:81']);
  assert.match(stderr, /VM "bad-2" is not safe to use in scripts: invalid address/);
  assert.match((await vreg(['tree', '-o', 'wide'], { url })).stdout, /^good\t/m);
  const terminal = await vreg(['ls'], { url, tty: true, width: 200 });
  assert.match(terminal.stdout, /bad-0 .* -oProxyCommand=reboot /);
});

test('no format for scripts contains a hostile id, parent or address', async (t) => {
  const lastSeen = '2020-01-01T00:00:00.000Z';
  const vms = [...BAD, GOOD, aVm({ id: 'child', parentId: IDS[0]! })].map((vm) => ({
    ...vm,
    lastSeen,
    registeredAt: lastSeen,
  }));
  const claim = { address: ADDRESSES[2], at: lastSeen };
  const conflict = {
    id: 'good',
    state: 'open',
    count: 1,
    firstAt: lastSeen,
    lastAt: lastSeen,
    holder: claim,
    other: claim,
  };
  const conflicts = [...IDS.map((id) => ({ ...conflict, id })), { ...conflict, rebornAs: IDS[0] }, conflict];
  const changes = { address: [ADDRESSES[0], ADDRESSES[2]], parentId: [IDS[0], 'a'], name: ['a', 'b'] };
  const item = { revision: 1, position: `1-${'0'.repeat(16)}`, at: lastSeen, type: 'updated', by: 'a', changes };
  const url = await stub(t, ({ url: path = '' }, response) => {
    response.setHeader('x-vreg-version', '1.0.0');
    if (path.includes('/history')) return json(response, 200, { id: 'good', history: [item], count: 1 });
    if (path.includes('/conflicts')) return json(response, 200, { conflicts, count: conflicts.length });
    if (path.includes('/health')) return json(response, 200, { status: 'ok', uptime: 1 });
    if (path.includes('/vms/child')) return json(response, 200, vms.at(-1));
    return json(response, 200, { vms, count: vms.length });
  });
  for (const command of ['ls', 'tree', 'status', 'conflicts', 'history good', 'get child', 'describe child'])
    for (const format of [
      'tsv',
      'wide',
      'table',
      'name',
      'jsonpath=$..*',
      'template={{id}} {{parentId}} {{address}} {{#changes}}{{address}}{{parentId}}{{/changes}} {{#holder}}{{address}}{{/holder}} {{#stale}}{{id}}{{/stale}}\n',
    ]) {
      const { code, stdout, stderr } = await vreg([...command.split(' '), '-o', format], { url });
      assert.ok(code === 0 || (code === 5 && command.endsWith(' child')), `${command} ${format}: ${stderr}`);
      // The values of BAD are quoted in a JSON object of an expression.
      for (const hostile of [...IDS, ...ADDRESSES.slice(0, -1)])
        for (const text of [hostile, JSON.stringify(hostile).slice(1, -1)])
          assert.equal(stdout.includes(text), false, `${command} ${format}: ${hostile} in ${stdout}`);
    }
  const { stdout, stderr } = await vreg(['status', '-o', 'jsonpath={.stale[*].id}'], { url });
  assert.match(stdout, /^(?:bad-\d |good |child ?)+\n$/);
  for (const id of IDS) assert.ok(stderr.includes(`VM "${id}" is not safe to use in scripts: `), stderr);
  assert.equal((await vreg(['get', 'child', '-o', 'jsonpath={.parentId}'], { url })).code, 5);
  assert.equal(JSON.parse((await vreg(['get', 'child', '-o', 'json'], { url })).stdout).parentId, IDS[0]);
});

test('an expression about one hostile entry exits with 5', async (t) => {
  const url = await hostileRegistry(t);
  for (const format of ['jsonpath={.address}', 'template={{address}}']) {
    const { code, stdout } = await vreg(['get', 'bad-0', '-o', format], { url });
    assert.deepEqual([code, stdout], [5, '']);
  }
});

test('a service with an invalid port is not used', async (t) => {
  const vm = { ...aVm({ id: 'a' }), services: [{ name: 'api', port: '1;reboot' }], lastSeen: new Date().toISOString() };
  const url = await stub(t, (_request, response) => json(response, 200, { vms: [vm], count: 1 }));
  const result = await vreg(['url', 'worker', '--service', 'api'], { url });
  assert.deepEqual([result.code, result.stdout], [5, '']);
  assert.match(result.stderr, /^vreg: VM "a" has no valid port for the service "api"\nhint: /);
});

test('malformed entries are omitted', async (t) => {
  const lastSeen = new Date().toISOString();
  const broken = [{}, { id: 1, address: 'a' }, { id: 'a' }, { id: 'b', address: null }, { id: '', address: 'a' }];
  const vms = [...broken.map((vm) => ({ role: 'worker', status: 'running', lastSeen, ...vm })), { ...aVm(), lastSeen }];
  const url = await stub(t, (_request, response) => json(response, 200, { vms, count: 1 }));
  const { code, stdout } = await vreg(['addr', 'worker', '--pick', 'first'], { url });
  assert.deepEqual([code, stdout], [0, 'vm-1.vm.vers.sh\n']);
  for (const argv of ['ls', 'ls -q', 'ls --json', 'env', 'export']) {
    const result = await vreg(argv.split(' '), { url });
    assert.equal(result.code, 0, `${argv}: ${result.stderr}`);
  }
});

test('completion offers no id that a command would take for a flag or that has control characters', async (t) => {
  const url = await hostileRegistry(t, [...BAD, GOOD, aVm({ id: 'a\u001b[2J', name: '-n' }), aVm({ id: 'b\nc' })]);
  const { stdout } = await vreg(['__complete', 'zsh', 'get', ''], { url });
  const [, ...candidates] = stdout.trimEnd().split('\n');
  const ids = candidates.map((line) => line.split('\t')[0]);
  assert.deepEqual(ids.sort(), ['bad-0', 'bad-1', 'bad-2', 'bad-3', 'bad-4', 'bad-5', 'good']);
});

test('watch does not run its command for a hostile VM, and prints no hostile address', async (t) => {
  const { url, registry } = await serveApp(t);
  const file = join(tempDir(t), 'ran');
  for (const vm of [...BAD, { ...GOOD, address: '10.0.0.1' }]) await registry.register(vm);
  const controller = new AbortController();
  const options = { url, signal: controller.signal };
  const command = `echo "$VREG_VM_ID $VREG_VM_ADDRESS" >>${file}`;
  const running = [
    start(['watch', '--since', 'start', '--', 'sh', '-c', command], options),
    start(['watch', '--since', 'start'], options),
    start(['watch', '--since', 'start', '-o', 'jsonpath={.vm.address}'], options),
  ];
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const [ran, rows, addresses] = running as [(typeof running)[0], (typeof running)[0], (typeof running)[0]];
  await until('the command', () => existsSync(file) && readFileSync(file, 'utf8').includes('good'));
  await until('the rows', () => rows.stdout().includes('good'));
  await until('the address', () => addresses.stdout().includes('10.0.0.1'));
  // The event reset, which is about no VM, comes first.
  assert.equal(readFileSync(file, 'utf8').trim(), 'good 10.0.0.1');
  assert.equal(addresses.stdout(), '10.0.0.1\n');
  for (const address of ADDRESSES.slice(0, 5)) assert.equal(rows.stdout().includes(address), false, address);
  assert.match(ran.stderr(), /VM "bad-2" is not safe .*; the command does not run for the event registered\n/);
  controller.abort(new Interrupted('SIGINT'));
  await Promise.all(running.map(({ result }) => result));
});

test('an invalid cached address is not used', async (t) => {
  const dir = tempDir(t);
  const folder = join(dir, 'by-role/worker');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'at'), String(Date.parse('2026-01-01T00:03:00.000Z') / 1000));
  const options = { env: { VREG_RUN_DIR: dir } };
  for (const [value, code] of [
    ['10.0.0.1', 0],
    ['-oProxyCommand=reboot', 8],
    ['a b', 8],
  ] as const) {
    writeFileSync(join(folder, 'addr'), `${value}\n`);
    writeFileSync(join(folder, 'url'), `http://${value}\n`);
    const addr = await vreg(['addr', 'worker', '--max-stale', '1h'], options);
    const url = await vreg(['url', 'worker', '--max-stale', '1h'], options);
    assert.deepEqual([addr.code, url.code], [code, code]);
    assert.deepEqual([addr.stdout, url.stdout], code === 0 ? ['10.0.0.1\n', 'http://10.0.0.1\n'] : ['', '']);
  }
});

for (const argv of [
  'register a --address -x',
  'register a --address a/b',
  'update a --address $(reboot)',
  'register -- -x',
]) {
  test(`vreg ${argv} exits with 5 and sends nothing`, async () => {
    const result = await vreg(argv.split(' '));
    assert.deepEqual([result.code, result.stdout], [5, '']);
  });
}

test('an id that cannot be part of a host name requires an address', async () => {
  const result = await vreg(['register', 'my vm']);
  assert.equal(result.code, 5);
  assert.match(
    result.stderr,
    /^vreg: invalid address "my vm\.vm\.vers\.sh": .*\nhint: pass --address ADDRESS; the default/,
  );
});
