import assert from 'node:assert/strict';
import test from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** A clock that advances 30 seconds per reading, so that a wait times out soon. */
function fastClock(): () => number {
  let now = 0;
  return () => (now += 30_000);
}

const MET: readonly [argv: string, seeded: readonly Parameters<typeof aVm>[0][], stdout: string][] = [
  ['worker', [{ id: 'w' }], 'w\n'],
  ['worker --for live', [{ id: 'w' }, { id: 'p', status: 'paused' }], 'w\n'],
  ['worker --for count=2', [{ id: 'v' }, { id: 'w' }, { id: 'x' }], 'v\nw\nx\n'],
  ['worker --for gone', [{ id: 'p', status: 'paused' }], ''],
  ['w', [{ id: 'w' }], 'w\n'],
  ['w --for live', [{ id: 'w' }], 'w\n'],
  ['nope --for gone', [], ''],
  ['--for registry', [], ''],
];

for (const [argv, seeded, stdout] of MET) {
  test(`wait ${argv} returns immediately if the condition is met`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, seeded.map(aVm));
    assert.deepEqual(await vreg(['wait', ...argv.split(' '), '-q'], { url }), { code: 0, stdout, stderr: '' });
  });
}

for (const argv of ['worker --for stale', 'w --for stale']) {
  test(`wait ${argv} returns once the VM is stale`, async (t) => {
    const { url, clock } = await serveApp(t);
    await seed(url, [aVm({ id: 'w' })]);
    clock.pass(300_001);
    assert.equal((await vreg(['wait', ...argv.split(' '), '-q'], { url })).stdout, 'w\n');
  });
}

test('JSON output is the VM if the condition is on one VM that was found, otherwise a list', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'w' })]);
  for (const [argv, count] of [
    ['worker', 1],
    ['infra --for gone', 0],
    ['x --for gone', 0],
    ['--for registry', 0],
  ] as const) {
    const { stdout } = await vreg(['wait', ...argv.split(' '), '--json'], { url });
    assert.equal((JSON.parse(stdout) as unknown[]).length, count, argv);
  }
  assert.equal((JSON.parse((await vreg(['wait', 'w', '--json'], { url })).stdout) as { id: string }).id, 'w');
  assert.equal((await vreg(['wait', 'w', '-o', 'jsonpath={.id}'], { url })).stdout, 'w\n');
});

const COMING: readonly [argv: string, make: (url: string) => Promise<unknown>, stdout: string][] = [
  ['infra', (url) => seed(url, [aVm({ id: 'i', role: 'infra' })]), 'i\n'],
  ['worker --for count=3', (url) => seed(url, [aVm({ id: 'b' }), aVm({ id: 'c' })]), 'a\nb\nc\n'],
  ['worker --for gone', (url) => call(url, 'PATCH', '/registry/vms/a', { body: { status: 'stopped' } }), ''],
  ['a --for gone', (url) => call(url, 'DELETE', '/registry/vms/a'), ''],
];

for (const [argv, make, stdout] of COMING) {
  test(`wait ${argv} waits until the condition is met`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'a' })]);
    const waiting = start(['wait', ...argv.split(' '), '-q', '-v'], { url });
    await until('the first look', () => waiting.stderr().includes('GET'));
    await make(url);
    const { code, stdout: printed } = await waiting.result;
    assert.deepEqual([code, printed], [0, stdout]);
  });
}

const LATE: readonly [argv: string, message: string, hint: string][] = [
  ['worker', 'a live worker VM (none registered)', 'list registered VMs: vreg ls --role worker'],
  ['worker --for count=2', '2 live worker VMs (none registered)', 'list registered VMs: vreg ls --role worker'],
  ['worker --for stale', 'a stale worker VM (none registered)', 'list registered VMs: vreg ls --role worker'],
  ['infra --for gone', 'no infra VM to be live (1 registered: 1 live)', 'list registered VMs: vreg ls --role infra'],
  ['x --for stale', 'VM x to be stale', 'show its state: vreg get x'],
  ['i --for gone', 'VM i to be gone', 'show its state: vreg get i'],
];

for (const [argv, message, hint] of LATE) {
  test(`wait ${argv} exits with 6 after the timeout and names the condition`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'i', role: 'infra' })]);
    assert.deepEqual(await vreg(['wait', ...argv.split(' '), '--timeout', '30s'], { url, now: fastClock() }), {
      code: 6,
      stdout: '',
      stderr: `vreg: timed out after 30s, waiting for ${message}\nhint: ${hint}\n`,
    });
  });
}

test('wait waits for a registry that starts later', async (t) => {
  const first = await startPlainServer(t);
  await first.close();
  const waiting = start(['wait', 'worker', '-q'], { url: first.url });
  const up = start(['wait', '--for', 'registry'], { url: first.url });
  const second = await startPlainServer(t, { port: first.port });
  await seed(second.url, [aVm({ id: 'w' })]);
  assert.deepEqual(await waiting.result, { code: 0, stdout: 'w\n', stderr: '' });
  assert.deepEqual(await up.result, { code: 0, stdout: '', stderr: '' });
});

test('wait for a registry that stays unreachable exits with 8, the cause and a hint', async () => {
  const result = await vreg(['wait', '--for', 'registry', '--timeout', '1s'], { now: fastClock() });
  assert.equal(result.code, 8);
  assert.match(
    result.stderr,
    /^vreg: timed out after 1s, waiting for the registry: cannot reach .* \(ECONNREFUSED, .*\)\nhint: is it running\? try: vreg doctor/,
  );
});

for (const [status, code] of [
  [429, 8],
  [503, 8],
  [500, 1],
] as const) {
  test(`wait exits with ${code} if the registry still answers ${status} after the timeout`, async (t) => {
    const url = await stub(t, (_request, response) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end('{"error":"later"}');
    });
    const result = await vreg(['wait', 'worker', '--timeout', '30s'], { url, now: fastClock() });
    assert.equal(result.code, code);
    assert.match(result.stderr, /^vreg: timed out after 30s, waiting for a live worker VM: later\nhint: ./);
  });
}

test('on a terminal, wait shows what it waits for, and whether the registry is reachable', async (t) => {
  const { url } = await serveApp(t);
  let isAway = true;
  const proxy = await stub(t, async (request, response) => {
    if (isAway) return void response.writeHead(503, { 'content-type': 'application/json' }).end('{"error":"away"}');
    const { status, body } = await call(url, 'GET', request.url!);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  const waiting = start(['wait', 'worker', '--for', 'count=2', '-q'], { url: proxy, errTty: true });
  await until('the outage', () => waiting.stderr().includes('retrying'));
  isAway = false;
  await until('the end of the outage', () => waiting.stderr().includes('again'));
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  assert.deepEqual(await waiting.result, {
    code: 0,
    stdout: 'a\nb\n',
    stderr:
      'vreg: waiting for 2 live worker VMs (timeout 60s)\nvreg: away; retrying\nvreg: the registry is reachable again\n',
  });
});

test('a rejected token ends the wait', async (t) => {
  const { url } = await startPlainServer(t, { token: 'secret' });
  const result = await vreg(['wait', 'worker'], { url });
  assert.equal(result.code, 2);
  assert.match(result.stderr, /^vreg: .*\nhint: provide the token/);
});

test('a request without a response does not use up the entire wait', async (t) => {
  let asked = 0;
  const url = await stub(t, (_request, response) => {
    asked++;
    if (asked > 1) response.writeHead(200, { 'content-type': 'application/json' }).end('{"vms":[],"count":0}');
  });
  const result = await vreg(['wait', 'worker', '--for', 'gone'], { url, env: { VREG_TIMEOUT: '100ms' } });
  assert.deepEqual([result.code, asked], [0, 2]);
});

const REFUSED: readonly [argv: string, message: RegExp][] = [
  ['', /^vreg: no role or id given\nhint: for example: vreg wait worker\n$/],
  [
    'worker --for lve',
    /^vreg: invalid --for "lve" for a role; did you mean "live"\?\nhint: use one of: live, gone, stale, count=N; for registry or self, omit the role\n$/,
  ],
  ['worker --for count=0', /^vreg: invalid --for "count=0" for a role\nhint: /],
  ['worker --for count=many', /^vreg: invalid --for "count=many"/],
  ['w --for count=2', /^vreg: invalid --for "count=2" for a VM\nhint: use one of: live, gone, stale; /],
  ['worker --for registry', /^vreg: unexpected argument "worker": --for registry takes no role or id\nhint: omit it/],
  ['worker --for self', /^vreg: unexpected argument "worker": --for self takes no role or id\nhint: omit it/],
  ['worker --timeout soon', /^vreg: invalid (--)?timeout "soon"\nhint: use a duration such as 90s/],
  ['worker infra', /^vreg: too many arguments.*\nhint: see the usage: vreg wait --help\n$/],
];

for (const [argv, message] of REFUSED) {
  test(`wait ${argv} exits with 5 and lists accepted values`, async () => {
    const result = await vreg(['wait', ...argv.split(' ').filter(Boolean)]);
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
  });
}

test('wait --for self waits until this VM is live, named by VERS_VM_ID or VREG_ID', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'here' }), aVm({ id: 'paused-1', status: 'paused' })]);
  const ask = (env: NodeJS.ProcessEnv) =>
    vreg(['wait', '--for', 'self', '--timeout', '500ms', '-q'], { url, env, now: Date.now });
  assert.deepEqual(await ask({ VERS_VM_ID: 'here' }), { code: 0, stdout: 'here\n', stderr: '' });
  const paused = await ask({ VREG_ID: 'paused-1' });
  assert.deepEqual([paused.code, paused.stdout], [6, '']);
  assert.match(
    paused.stderr,
    /^vreg: timed out after 500ms, waiting for VM paused-1 to be live\nhint: .*vreg get paused-1/,
  );
});

test('an id that looks like a misspelt role prints a note', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'wroker' })]);
  assert.deepEqual(await vreg(['wait', 'wroker', '-q'], { url }), {
    code: 0,
    stdout: 'wroker\n',
    stderr: 'vreg: waiting for a VM with the id "wroker"; did you mean "worker"?\n',
  });
});

test('Ctrl-C ends a wait with exit 130', async (t) => {
  const { url } = await serveApp(t);
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const waiting = start(['wait', 'worker', '-v'], { url, signal: controller.signal });
  await until('the first look', () => waiting.stderr().includes('GET'));
  controller.abort(new Interrupted('SIGINT'));
  assert.equal((await waiting.result).code, 130);
});

test('wait works with the original registry', async (t) => {
  const { url, vms } = await startPlainServer(t);
  const waiting = start(['wait', 'worker', '--for', 'count=2', '-q', '-v'], { url });
  await until('the first look', () => waiting.stderr().includes('GET'));
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  assert.equal((await waiting.result).stdout, 'a\nb\n');
  vms.get('a')!.lastSeen = new Date(Date.now() - 400_000).toISOString();
  assert.equal((await vreg(['wait', 'worker', '--for', 'stale', '-q'], { url })).stdout, 'a\n');
  assert.equal((await vreg(['wait', 'nope', '--for', 'gone'], { url })).code, 0);
});

test('wait accepts several roles, separated by commas, and counts the VMs with any of them', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'g', role: 'golden' }), aVm({ id: 'w' })]);
  const run = async (argv: string) => (await vreg(['wait', ...argv.split(' '), '-q'], { url, now: Date.now })).stdout;
  assert.equal(await run('golden,worker --for count=2'), 'g\nw\n');
  assert.equal(await run('infra,worker'), 'w\n');
  assert.equal((await vreg(['wait', 'infra,custom', '--for', 'gone'], { url, now: Date.now })).code, 0);
  const none = await vreg(['wait', 'infra,custom', '--timeout', '30s'], { url, now: fastClock() });
  assert.deepEqual(
    [none.code, none.stderr.split('\n')[0]],
    [6, 'vreg: timed out after 30s, waiting for a live infra or custom VM (none registered)'],
  );
});
