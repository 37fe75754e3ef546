import assert from 'node:assert/strict';
import test from 'node:test';
import stringWidth from 'string-width';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

const AT = '2026-01-01T00:00:00.000Z';
const TOKEN = 'a-secret-token';
const FLEET = [
  aVm({ id: 'golden-1', name: 'gold', role: 'golden' }),
  aVm({
    id: 'a',
    name: 'alpha',
    address: '10.0.0.1',
    parentId: 'golden-1',
    metadata: { task: 'process invoices', limits: { cpu: 2 } },
    services: [
      { name: 'api', port: 80, healthPath: '/health', protocol: 'https' },
      { name: 'ssh', port: 22 },
    ],
  }),
  aVm({ id: 'child-1', name: 'kid', parentId: 'a', status: 'paused' }),
];

test('describe shows metadata, services with health, parent, children, tokens, the offer and the last changes', async (t) => {
  const { url } = await serveApp(t, { token: TOKEN });
  const headers = { authorization: `Bearer ${TOKEN}` };
  for (const body of FLEET) await call(url, 'POST', '/registry/vms', { body, headers });
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'beta' }, headers });
  await call(url, 'POST', '/registry/vms/a/heartbeat', { body: { health: { api: 'failing' } }, headers });
  await call(url, 'POST', '/registry/tokens', { body: { name: 'for-a', scope: 'write', vm: 'a' }, headers });
  await call(url, 'POST', '/registry/tokens', { body: { name: 'other', scope: 'write', vm: 'b' }, headers });
  const { code, stdout, stderr } = await vreg(['describe', 'a'], { url, env: { VERS_AUTH_TOKEN: TOKEN } });
  assert.deepEqual([code, stderr], [0, '']);
  assert.doesNotMatch(stdout, /other/);
  const lines = stdout.split('\n');
  for (const [label, text] of [
    ['ID', 'a'],
    ['Name', 'beta'],
    ['Role', 'worker'],
    ['Status', 'running'],
    ['Live', 'live'],
    ['Last seen', AT],
    ['Offered', /^yes: it is running and was last seen at .*; the lease is 5m$/],
    ['Address', '10.0.0.1'],
    ['Parent', 'golden-1 (gold, golden, live)'],
    ['Registered', `${AT} by test`],
  ] as const) {
    const line = lines.find((line) => line.startsWith(`${label}:`));
    const value = line?.slice(label.length + 1).trim();
    if (typeof text === 'string') assert.equal(value, text, label);
    else assert.match(value!, text);
  }
  for (const section of [
    /\nMetadata:\n {2}task: +process invoices\n {2}limits: +\{"cpu":2\}\n\S/,
    /\nServices:\n {2}NAME .*\n {2}api +80 +failing +healthPath=\/health, protocol=https\n {2}ssh +22 +- +-\n\S/,
    /\nChildren:\n {2}ID .*\n {2}child-1 +kid +worker +paused .*\n\S/,
    /\nTokens:\n {2}NAME .*\n {2}for-a +write .*\n\S/,
    /\nLast changes:\n {2}WHEN .*\n {2}\S+ +updated +VERS_AUTH_TOKEN +name: alpha -> beta\n {2}\S+ +registered .*\n$/,
  ])
    assert.match(stdout, section);
});

test('empty parts are shown as none', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', parentId: 'gone' })]);
  const { stdout } = await vreg(['describe', 'a'], { url });
  for (const part of ['Metadata', 'Services', 'Children', 'Tokens'])
    assert.match(stdout, new RegExp(`^${part}: +none$`, 'm'));
  assert.match(stdout, /^Parent: +gone \(not registered\)$/m);
  assert.doesNotMatch(stdout, /Conflicts/);
});

test('describe says why discover omits a VM', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  clock.pass(301_000);
  await seed(url, [aVm({ id: 'b', status: 'paused' })]);
  assert.match(
    (await vreg(['describe', 'a'], { url })).stdout,
    /^Offered: +no: it is stale: last seen at .* ago; the lease is 5m$/m,
  );
  assert.match((await vreg(['describe', 'b'], { url })).stdout, /^Offered: +no: it is declared paused$/m);
});

test('describe counts open conflicts', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'a' }));
  const [spend, next] = [`1.${'a'.repeat(32)}`, `2.${'a'.repeat(32)}`];
  registry.heartbeat('a', { next, incarnation: 'one' });
  assert.throws(() => registry.heartbeat('a', { spend, next, incarnation: 'two' }));
  assert.match((await vreg(['describe', 'a'], { url })).stdout, /^Conflicts: +1 open: see vreg conflicts a$/m);
});

test('JSON consists of the entry and the other parts', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { body } = await call(url, 'GET', '/registry/vms/a');
  const one = JSON.parse((await vreg(['describe', 'a', '-o', 'json'], { url })).stdout) as Record<string, unknown>;
  for (const [field, value] of Object.entries(body as object)) assert.deepEqual(one[field], value, field);
  assert.deepEqual([one.live, typeof one.ageSeconds], ['live', 'number']);
  assert.equal((one.why as { offered: boolean }).offered, true);
  assert.equal((one.parent as { id: string }).id, 'golden-1');
  assert.deepEqual(
    (one.children as { id: string }[]).map(({ id }) => id),
    ['child-1'],
  );
  assert.deepEqual([one.tokens, one.conflicts, (one.history as unknown[]).length], [[], [], 1]);
  const both = await vreg(['describe', 'a', 'golden-1', '-o', 'json'], { url });
  assert.equal((JSON.parse(both.stdout) as unknown[]).length, 2);
  assert.equal((await vreg(['describe', 'a', 'golden-1', '-q'], { url })).stdout, 'a\ngolden-1\n');
  assert.equal(
    (await vreg(['describe', 'a', '-o', 'jsonpath={.metadata.task}'], { url })).stdout,
    'process invoices\n',
  );
});

test('several descriptions are separated by an empty line, and an unknown id is reported after them', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { code, stdout, stderr } = await vreg(['describe', 'a', 'nope', 'child-1'], { url });
  assert.equal(code, 3);
  assert.equal(stdout.match(/^ID:/gm)?.length, 2);
  assert.match(stdout, /\n\nID: +child-1\n/);
  assert.equal(stderr, 'vreg: 1 of 3 failed: nope: VM not found\nhint: list registered VMs: vreg ls\n');
});

test('the original registry needs to answer one request only, and the parts that it lacks are left out', async (t) => {
  const { url, requests } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a', metadata: { task: 'x' } }), aVm({ id: 'b', status: 'stopped' })]);
  requests.length = 0;
  const { code, stdout, stderr } = await vreg(['describe', 'a'], { url });
  assert.deepEqual([code, stderr], [0, '']);
  assert.deepEqual(requests, ['GET /registry/vms/a?include=liveness']);
  assert.match(stdout, /^Offered: +yes: it is running and was last seen at /m);
  assert.match(stdout, /^Metadata:\n {2}task: +x\n/m);
  assert.doesNotMatch(stdout, /Children|Tokens|Last changes|Conflicts/);
  assert.match((await vreg(['describe', 'b'], { url })).stdout, /^Offered: +no: it is declared stopped$/m);
  const data = JSON.parse((await vreg(['describe', 'a', '-o', 'json'], { url })).stdout) as object;
  for (const part of ['children', 'tokens', 'history', 'conflicts', 'parent']) assert.equal(part in data, false, part);
});

test('a token that may read one VM sees its description without the parts that it may not read', async (t) => {
  const { url } = await serveApp(t, { token: TOKEN });
  const headers = { authorization: `Bearer ${TOKEN}` };
  for (const body of FLEET) await call(url, 'POST', '/registry/vms', { body, headers });
  const { body } = await call(url, 'POST', '/registry/tokens', {
    body: { name: 'r', scope: 'read', vm: 'a' },
    headers,
  });
  const env = { VERS_AUTH_TOKEN: (body as { token: string }).token };
  const { code, stdout, stderr } = await vreg(['describe', 'a'], { url, env });
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /^Parent: +golden-1$/m);
  assert.match(stdout, /^Last changes:$/m);
  assert.doesNotMatch(stdout, /Tokens|child-1|gold,/);
});

test('an error that concerns the whole registry ends the command', async (t) => {
  const url = await stub(t, ({ url: path = '' }, response) => {
    response.setHeader('x-vreg-version', '1.0.0');
    if (path.endsWith('/why')) return json(response, 503, { error: 'busy' });
    return json(response, 200, { ...aVm({ id: 'a' }), vms: [], tokens: [], conflicts: [], history: [] });
  });
  const { code, stdout } = await vreg(['describe', 'a'], { url });
  assert.deepEqual([code, stdout], [8, '']);
});

test('on a terminal times have ages, and the explanation breaks at spaces', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { stdout } = await vreg(['describe', 'a'], { url, tty: true, width: 60, env: { NO_COLOR: '1' } });
  assert.match(stdout, /^Last seen: +2026-01-01T00:00:00\.000Z \(3m ago\)$/m);
  const [, offered] = /^(Offered:.*(?:\n .*)+)/m.exec(stdout)!;
  for (const line of offered!.split('\n')) assert.ok(line.length <= 60, line);
});

test('on a terminal the tables of a description fit its width', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'x'.repeat(100), metadata: {} } });
  for (const width of [80, 60]) {
    const { stdout } = await vreg(['describe', 'a', 'golden-1'], { url, tty: true, width, env: { NO_COLOR: '1' } });
    const rows = stdout.split('\n').filter((line) => line.startsWith('  '));
    assert.ok(rows.some((line) => line.endsWith('…')));
    for (const row of rows) assert.ok(row.length <= width, row);
  }
});

test('on a terminal long values break at spaces, and wide labels are aligned', async (t) => {
  const { url } = await serveApp(t);
  const token = 'x'.repeat(70);
  await seed(url, [
    aVm({ id: 'a', name: 'a name of several words '.repeat(4).trim(), metadata: { 漢字: 'two words', k: token } }),
  ]);
  const { stdout } = await vreg(['describe', 'a'], { url, tty: true, width: 50, env: { NO_COLOR: '1' } });
  const [, name] = /^(Name:.*(?:\n {2,}.*)+)/m.exec(stdout)!;
  for (const line of name!.split('\n')) assert.ok(line.length <= 50, line);
  const [, wide, narrow] = /^Metadata:\n(.*)two words\n(.*)x{70}$/m.exec(stdout)!;
  assert.equal(stringWidth(wide!), stringWidth(narrow!));
});

test('describe shows the services and capabilities of a reef server', async (t) => {
  const { url } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', {
    body: { ...aVm({ id: 'a' }), reefConfig: { services: ['board'], capabilities: ['code'] } },
  });
  const { stdout } = await vreg(['describe', 'a'], { url });
  assert.match(stdout, /\nReef config:\n {2}services: +\["board"\]\n {2}capabilities: +\["code"\]\n\S/);
});

test('more than twenty children are counted, and listed in JSON', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'p' }), ...Array.from({ length: 25 }, (_, n) => aVm({ id: `c-${n}`, parentId: 'p' }))]);
  const { stdout } = await vreg(['describe', 'p'], { url });
  assert.match(stdout, /\n {2}c-19 .*\n {2}and 5 more: see vreg tree p\n/);
  const { children } = JSON.parse((await vreg(['describe', 'p', '--json'], { url })).stdout) as { children: unknown[] };
  assert.equal(children.length, 25);
});

test('the text of a description contains no hostile id or address in a pipe, and no control character anywhere', async (t) => {
  const evil = 'x\u001b[2J\n\u202ey';
  const { url, vms } = await startPlainServer(t);
  await seed(url, [
    aVm({
      id: 'a',
      address: '$(reboot)',
      metadata: { [evil]: evil, n: [evil] },
      services: [{ name: evil, port: 1, [evil]: evil }],
    }),
  ]);
  Object.assign(vms.get('a')!, {
    name: evil,
    parentId: '-uhttp://evil.example',
    registeredBy: evil,
    registeredAt: evil,
  });
  const piped = await vreg(['describe', 'a'], { url });
  assert.match(piped.stdout, /^Address: +-$/m);
  assert.doesNotMatch(piped.stdout, /reboot|evil\.example/);
  assert.match(piped.stderr, /^vreg: VM "a" is not safe to use in scripts: /);
  const shown = await vreg(['describe', 'a'], { url, tty: true, env: { NO_COLOR: '1' } });
  assert.match(shown.stdout, /^Address: +\$\(reboot\)$/m);
  for (const { stdout } of [piped, shown]) assert.doesNotMatch(stdout, /[\u0000-\u0009\u000b-\u001f\u202e]/);
});
