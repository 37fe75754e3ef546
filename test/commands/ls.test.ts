import assert from 'node:assert/strict';
import test, { after, type TestContext } from 'node:test';
import { parse } from 'yaml';
import { Interrupted } from '../../src/exit.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const AT = '2026-01-01T00:00:00.000Z';
const TITLES = 'ID\tNAME\tROLE\tSTATUS\tLIVE\tADDRESS\tLAST SEEN\n';
const B = `b\tbeta\tinfra\tpaused\t-\t10.0.0.2\t${AT}\n`;
const A = `a\talpha\tworker\trunning\tlive\t10.0.0.1\t${AT}\n`;

const FLEET = [
  aVm({ id: 'a', name: 'alpha', address: '10.0.0.1', services: [{ name: 'api', port: 80 }] }),
  aVm({ id: 'b', name: 'beta', address: '10.0.0.2', role: 'infra', status: 'paused' }),
];

const { url } = await serveApp({ after });
await seed(url, FLEET);

test('a piped list is TSV, newest registration first', async () => {
  assert.deepEqual(await vreg(['ls'], { url }), { code: 0, stdout: TITLES + B + A, stderr: '' });
});

test('on a terminal a list is an aligned table with relative times', async () => {
  const { stdout, code } = await vreg(['ls'], { url, tty: true, env: { NO_COLOR: '1' } });
  assert.equal(code, 0);
  assert.equal(
    stdout,
    [
      'ID   NAME    ROLE     STATUS    LIVE   ADDRESS    LAST SEEN',
      'b    beta    infra    paused    -      10.0.0.2   3m ago',
      'a    alpha   worker   running   live   10.0.0.1   3m ago',
      '',
    ].join('\n'),
  );
});

const LISTS: readonly [name: string, argv: readonly string[], stdout: string][] = [
  ['-o tsv', ['-o', 'tsv'], TITLES + B + A],
  ['--no-headers', ['--no-headers'], B + A],
  ['-q', ['-q'], 'b\na\n'],
  ['--quiet', ['--quiet'], 'b\na\n'],
  ['-o name', ['-o', 'name'], 'b\na\n'],
  ['--role', ['--role', 'infra', '--no-headers'], B],
  ['--status', ['--status', 'running', '--no-headers'], A],
  ['--role and --status without a match', ['--role', 'infra', '--status', 'stopped'], ''],
  ['--stale without stale VMs', ['--stale'], ''],
  ['--sort id', ['--sort', 'id', '-q'], 'a\nb\n'],
  ['--sort name', ['--sort', 'name', '-q'], 'a\nb\n'],
  ['--sort role', ['--sort', 'role', '-q'], 'b\na\n'],
  ['--sort registered', ['--sort', 'registered', '-q'], 'b\na\n'],
  [
    '-o wide',
    ['-o', 'wide', '--role', 'worker'],
    `${TITLES.trim()}\tSERVICES\tPARENT\tMETADATA\tREGISTERED BY\tREGISTERED\tHEALTH\n${A.trim()}\tapi:80\t-\t-\ttest\t${AT}\t-\n`,
  ],
  [
    '-o table in a pipe, with RFC 3339 times',
    ['-o', 'table', '--role', 'worker', '--no-headers'],
    `a   alpha   worker   running   live   10.0.0.1   ${AT}\n`,
  ],
];

for (const [name, argv, stdout] of LISTS) {
  test(`ls ${name}`, async () => {
    assert.deepEqual(await vreg(['ls', ...argv], { url }), { code: 0, stdout, stderr: '' });
  });
}

type Row = Record<string, unknown> & { ageSeconds: number };

test('JSON, NDJSON and YAML print the entries as in the API, with liveness and age', async () => {
  const { body } = await call(url, 'GET', '/registry/vms');
  const { vms } = body as { vms: Record<string, unknown>[] };
  const expected = vms.map((vm) => ({ ...vm, live: vm.id === 'a' ? 'live' : 'paused' }));
  const json = await vreg(['ls', '-o', 'json'], { url });
  const ages = (JSON.parse(json.stdout) as Row[]).map(({ ageSeconds, ...vm }, index) => {
    assert.deepEqual(vm, expected[index]);
    return ageSeconds;
  });
  assert.ok(ages.every((age) => age > 0 && Math.abs(age - (Date.now() - Date.parse(AT)) / 1000) < 60));
  assert.deepEqual((await vreg(['ls', '--json'], { url, tty: true })).code, 0);
  const ndjson = (await vreg(['ls', '-o', 'ndjson'], { url })).stdout.trimEnd().split('\n');
  assert.deepEqual(
    ndjson.map((line) => JSON.parse(line) as Row).map(({ ageSeconds: _, ...vm }) => vm),
    expected,
  );
  const yaml = await vreg(['ls', '-o', 'yaml', '--role', 'infra'], { url });
  assert.match(
    yaml.stdout,
    /^- id: b\n {2}name: beta\n {2}role: infra\n {2}status: paused\n {2}address: 10\.0\.0\.2\n/,
  );
});

const EMPTY: readonly [format: string, stdout: string][] = [
  ['json', '[]\n'],
  ['ndjson', ''],
  ['yaml', '[]\n'],
  ['tsv', ''],
  ['table', ''],
  ['wide', ''],
  ['name', ''],
];

for (const [format, stdout] of EMPTY) {
  test(`an empty list with -o ${format} exits with 0`, async (t) => {
    const { url } = await serveApp(t);
    assert.deepEqual(await vreg(['ls', '-o', format], { url }), { code: 0, stdout, stderr: '' });
  });
}

test('on a terminal an empty list is noted on stderr', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['ls'], { url, tty: true }), { code: 0, stdout: '', stderr: 'no VMs\n' });
});

test('stale VMs are marked, selected by --stale and excluded by --status running', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, FLEET);
  clock.pass(300_001);
  const { stdout } = await vreg(['ls', '--no-headers'], { url });
  assert.equal(stdout, B + A.replace('\tlive\t', '\tstale\t'));
  assert.equal((await vreg(['ls', '--stale', '-q'], { url })).stdout, 'a\n');
  assert.equal((await vreg(['ls', '--stale', '--status', 'running', '-q'], { url })).stdout, 'a\n');
  assert.equal((await vreg(['ls', '--status', 'running', '-q'], { url })).stdout, '');
});

test('--stale with another status than running exits with 5', async () => {
  const result = await vreg(['ls', '--stale', '--status', 'paused']);
  assert.equal(result.code, 5);
  assert.equal(result.stdout, '');
  assert.match(result.stderr, /^vreg: --stale cannot be combined with --status paused\nhint: .+\n$/);
});

test('--watch in a pipe prints one header and a row per change until interrupted', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET.slice(0, 1));
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const { result, stdout } = start(['ls', '-w'], { url, signal: controller.signal });
  await until('the first row', () => stdout() !== '');
  await seed(url, FLEET.slice(1));
  await until('the second row', () => stdout().includes('beta'));
  controller.abort(new Interrupted('SIGINT'));
  assert.deepEqual(await result, { code: 130, stdout: TITLES + A + B, stderr: '' });
});

/** Runs `ls --watch` on a terminal, and waits until its screen shows the text. */
async function startLive(t: TestContext, url: string, argv: readonly string[] = [], shown = 'q quit') {
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const list = start(['ls', '-w', ...argv], { url, tty: true, env: { NO_COLOR: '1' }, signal: controller.signal });
  const text = () => list.screen()?.lines.join('\n') ?? '';
  const shows = (what: string | RegExp) => until(`the screen to show ${what}`, () => text().search(what) >= 0);
  await shows(shown);
  return { ...list, controller, text, shows };
}

test('--watch on a terminal shows a full screen that follows events', async (t) => {
  const { url, registry, clock } = await serveApp(t);
  await seed(url, FLEET.slice(0, 1));
  const list = await startLive(t, url);
  assert.match(list.text(), /^connected {3}1 VM {3}0\.0 heartbeats\/s {3}http:/);
  await seed(url, FLEET.slice(1));
  await list.shows('beta');
  assert.match(list.text(), /\ninfra +0 +0 +0 +1 +0\nworker +1 +0 +0 +0 +0\nall +1 +0 +0 +1 +0\n/);
  clock.pass(301_000);
  registry.sweep();
  await list.shows(/\na +alpha +worker +running +stale/);
  registry.heartbeat('a');
  await list.shows(/\na +alpha +worker +running +live/);
  await list.shows(/ [01]\.[1-9] heartbeats\/s/);
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'gamma' } });
  await list.shows('gamma');
  await call(url, 'DELETE', '/registry/vms/a');
  await until('that it goes', () => !list.text().includes('gamma'));
  assert.equal(list.stdout(), '');
  list.screen()!.press('q');
  assert.deepEqual(await list.result, { code: 0, stdout: '', stderr: '' });
  assert.equal(list.screen(), undefined);
});

test('--watch on a terminal lists again when the registry has warmed up, and shows the health of services', async (t) => {
  const { url, registry, clock } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', services: [{ name: 'api', port: 80 }] }), aVm({ id: 'b' })]);
  clock.miss(1000);
  clock.pass(298_500);
  const list = await startLive(t, url, ['-o', 'wide']);
  list.screen()!.resize(250, 24);
  await list.shows(/may include dead VMs for [12] s/);
  registry.heartbeat('a', { health: { api: 'failing' } });
  clock.pass(2000);
  await list.shows('api:failing');
  assert.doesNotMatch(list.text(), /may include dead VMs/);
  list.screen()!.press('q');
  assert.equal((await list.result).code, 0);
});

for (const [how, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
  ['Ctrl-C', 130],
] as const) {
  test(`${how} closes the screen and exits with ${code}`, async (t) => {
    const list = await startLive(t, url);
    if (how === 'Ctrl-C') list.screen()!.press('ctrl-c');
    else list.controller.abort(new Interrupted(how));
    assert.deepEqual(await list.result, { code, stdout: '', stderr: '' });
    assert.equal(list.screen(), undefined);
  });
}

test('keys sort and scroll the screen, and it follows the size of the terminal', async (t) => {
  const { url } = await serveApp(t);
  await seed(
    url,
    Array.from({ length: 40 }, (_, n) => aVm({ id: `vm-${String(n).padStart(2, '0')}` })),
  );
  const list = await startLive(t, url, ['--sort', 'id']);
  await list.shows(/\nvm-00 .*\nvm-01 /);
  const screen = list.screen()!;
  screen.press('i');
  await list.shows(/\nvm-39 .*\nvm-38 /);
  screen.press('end');
  await list.shows(/\nvm-01 .*\nvm-00 .*\n.* 24-40 of 40 /);
  screen.press('up');
  await list.shows(/ 23-39 of 40 /);
  screen.resize(40, 10);
  await list.shows(/ 23-28 of 40/);
  assert.equal(screen.lines.length, 10);
  screen.press('q');
  assert.equal((await list.result).code, 0);
});

test('--watch on a terminal applies filters, --limit and -L to later events', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [...FLEET, aVm({ id: 'x', name: 'xi', metadata: { task: 'mail' } })]);
  const list = await startLive(t, url, [
    '--role',
    'worker',
    '-l',
    'task=mail',
    '-L',
    'task',
    '--limit',
    '2',
    '--sort',
    'id',
  ]);
  assert.match(list.text(), /^connected {3}1 VM /);
  for (const [id, task] of [
    ['y', 'mail'],
    ['w', 'mail'],
    ['v', 'other'],
  ] as const)
    await seed(url, [aVm({ id, metadata: { task } })]);
  await seed(url, [aVm({ id: 'u', role: 'infra', metadata: { task: 'mail' } })]);
  await list.shows(/ TASK\nw .* mail\nx .* mail\n/);
  assert.match(list.text(), /^connected {3}2 VMs /);
  list.screen()!.press('q');
  await list.result;
});

test('--watch continues after an outage of the registry, and notes its start and end once', async (t) => {
  const first = await startPlainServer(t);
  await seed(first.url, FLEET.slice(0, 1));
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const list = start(['ls', '-w'], { url: first.url, signal: controller.signal });
  await until('the first rows', () => list.stdout().includes('alpha'));
  await first.close();
  await until('that it went', () => list.stderr().includes('; retrying\n'));
  const second = await startPlainServer(t, { port: first.port });
  await seed(second.url, FLEET);
  await until('the second VM', () => list.stdout().includes('beta'));
  controller.abort(new Interrupted('SIGINT'));
  const { code, stderr } = await list.result;
  assert.equal(code, 130);
  assert.match(stderr, /^vreg: cannot reach .*; retrying\nvreg: the registry is reachable again\n$/);
});

for (const kind of ['the original registry', 'a vreg daemon']) {
  test(`the screen shows an outage of ${kind}, and the fleet after it`, async (t) => {
    const plain = kind === 'the original registry' ? await startPlainServer(t) : undefined;
    const app = plain ?? (await serveApp(t));
    const port = Number(new URL(app.url).port);
    await seed(app.url, FLEET.slice(0, 1));
    const list = await startLive(t, app.url, [], 'alpha');
    await app.close();
    await list.shows(/^disconnected, retrying: /);
    assert.match(list.text(), /alpha/);
    if (plain) {
      const second = await startPlainServer(t, { port });
      await seed(second.url, FLEET);
      await list.shows('beta');
      await list.shows(/^connected {3}2 VMs /);
      list.controller.abort(new Interrupted('SIGTERM'));
      assert.deepEqual(await list.result, { code: 143, stdout: '', stderr: '' });
    } else {
      // The wait before the next attempt does not delay the end.
      list.screen()!.press('q');
      assert.deepEqual(await list.result, { code: 0, stdout: '', stderr: '' });
    }
  });
}

test('a token that is revoked closes the screen and exits with 2', async (t) => {
  const secret = 'a-secret-token';
  const { url } = await serveApp(t, { token: secret });
  const headers = { authorization: `Bearer ${secret}` };
  const { body } = await call(url, 'POST', '/registry/tokens', { body: { name: 'r', scope: 'read' }, headers });
  const env = { VERS_AUTH_TOKEN: (body as { token: string }).token };
  const list = start(['ls', '-w'], { url, tty: true, env });
  await until('the screen', () => list.screen());
  await call(url, 'DELETE', '/registry/tokens/r', { headers });
  const { code, stderr } = await list.result;
  assert.equal(code, 2);
  assert.match(stderr, /^vreg: Unauthorized/);
  assert.equal(list.screen(), undefined);
});

test('--watch on a terminal without cursor control prints changed rows', async (t) => {
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const list = start(['ls', '-w'], { url, tty: true, env: { TERM: 'dumb' }, signal: controller.signal });
  await until('the rows', () => list.stdout().includes('alpha'));
  assert.equal(list.screen(), undefined);
  controller.abort(new Interrupted('SIGINT'));
  assert.equal((await list.result).code, 130);
});

test('--watch on a terminal opens no screen if the registry cannot be reached', async () => {
  const { code, stdout, stderr } = await vreg(['ls', '-w'], { tty: true });
  assert.deepEqual([code, stdout], [8, '']);
  assert.match(stderr, /^vreg: cannot reach the registry /);
});

test('--watch of an unreachable registry exits with 8', async () => {
  assert.equal((await vreg(['ls', '-w'])).code, 8);
});

test('--watch in a pipe notes on stderr that a VM is no longer listed', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const { result, stdout, stderr } = start(['ls', '-w', '--role', 'worker', '-q'], { url, signal: controller.signal });
  await until('the first row', () => stdout() !== '');
  await call(url, 'DELETE', '/registry/vms/a');
  await until('its end', () => stderr() !== '');
  controller.abort(new Interrupted('SIGINT'));
  assert.deepEqual(await result, { code: 130, stdout: 'a\n', stderr: 'vreg: a is no longer listed\n' });
});

const TAGGED = [
  aVm({ id: 'c', name: 'x', metadata: { task: 'billing', env: 'prod', n: 1 } }),
  aVm({ id: 'b', name: 'y', metadata: { task: 'billing', env: 'dev' } }),
  aVm({ id: 'a', name: 'z', metadata: { task: 'mail' } }),
  aVm({ id: 'd', name: 'w' }),
];

const SELECTIONS: readonly [argv: string, ids: string][] = [
  ['-l task=billing', 'b c'],
  ['-l task=billing,env!=prod', 'b'],
  ['-l task!=billing', 'd a'],
  ['-l env', 'b c'],
  ['-l !env', 'd a'],
  ['-l n=1', 'c'],
  ['--selector task==mail', 'a'],
  ['-l task=nope', ''],
  ['--limit 2', 'd a'],
  ['--limit 9', 'd a b c'],
  ['--sort name --limit 1', 'd'],
  ['-l task --sort id --limit 2', 'a b'],
  ['--sort seen', 'd a b c'],
  ['--stale --sort id --limit 2', 'a b'],
  ['--stale -l env --limit 1', 'b'],
];

for (const [argv, ids] of SELECTIONS) {
  test(`ls ${argv} gives the same list with a vreg daemon and the original registry`, async (t) => {
    const [app, plain] = [await serveApp(t), await startPlainServer(t)];
    for (const { url } of [app, plain]) await seed(url, TAGGED);
    const isStale = argv.includes('--stale');
    if (isStale) app.clock.pass(300_001);
    const times = [...plain.vms.values()];
    for (const [index, vm] of times.entries())
      vm.lastSeen = new Date(Date.now() - (isStale ? 400_000 : 60_000) + index * 1000).toISOString();
    for (const { url } of [app, plain]) {
      const { code, stdout, stderr } = await vreg(['ls', ...argv.split(' '), '-q'], { url, now: Date.now });
      assert.deepEqual([code, stdout.trim().split('\n').join(' '), stderr], [0, ids, ''], url);
    }
  });
}

for (const [argv, message] of [
  ['--limit 0', /^vreg: invalid --limit "0"\nhint: use a whole number from 1 to 999999999\n$/],
  ['--limit many', /^vreg: invalid --limit "many"/],
  ['--sort size', /^vreg: invalid --sort "size"\nhint: one of: registered, id, name, role, seen\n$/],
  ['-l a=b=c,=', /^vreg: invalid selector "=": a term is key=value, key!=value, key or !key\nhint: for example: /],
] as const) {
  test(`ls ${argv} exits with 5 with either server`, async (t) => {
    for (const { url } of [await serveApp(t), await startPlainServer(t)]) {
      const result = await vreg(['ls', ...argv.split(' ')], { url });
      assert.deepEqual([result.code, result.stdout], [5, '']);
      assert.match(result.stderr, message);
    }
  });
}

test('ls --strict prints nothing and exits with 10 while a listed VM may be dead', async (t) => {
  const { url, clock, registry } = await serveApp(t);
  await seed(url, FLEET);
  clock.miss(1000);
  const strict = (...more: string[]) => vreg(['ls', '--strict', '-q', ...more], { url });
  const { code, stdout, stderr } = await strict();
  assert.deepEqual([code, stdout], [10, '']);
  assert.match(stderr, /its answers may include dead VMs for another 300 s\nhint: try again later, or omit --strict/);
  assert.equal((await strict('--watch')).code, 10);
  assert.deepEqual(
    await strict('--role', 'infra'),
    { code: 0, stdout: 'b\n', stderr: '' },
    'a paused VM is not in doubt',
  );
  clock.pass(1000);
  registry.heartbeat('a');
  assert.deepEqual(await strict(), { code: 0, stdout: 'b\na\n', stderr: '' });
});

for (const alias of ['list', 'ps']) {
  test(`${alias} is an alias of ls`, async () => {
    assert.equal((await vreg([alias, '-q'], { url })).stdout, 'b\na\n');
  });
}

test('colour is used on a terminal only, subject to --no-color, NO_COLOR and FORCE_COLOR', async () => {
  const colored = async (argv: readonly string[], options: { tty?: boolean; env?: NodeJS.ProcessEnv }) =>
    (await vreg(['ls', ...argv], { url, ...options })).stdout.includes('\u001b[');
  assert.equal(await colored([], { tty: true }), true);
  assert.equal(await colored(['--no-color'], { tty: true }), false);
  assert.equal(await colored([], { tty: true, env: { NO_COLOR: '1' } }), false);
  assert.equal(await colored([], {}), false);
  assert.equal(await colored(['-o', 'table'], { env: { FORCE_COLOR: '1' } }), true);
  assert.equal(await colored(['--json'], { tty: true, env: { FORCE_COLOR: '1' } }), false);
});

test('-o wide shows id, role, status, liveness, address and time before services, parent and metadata', async (t) => {
  const { url } = await serveApp(t);
  const services = [{ name: 'api', port: 8080 }];
  const id = '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab';
  await seed(url, [
    aVm({ id, name: 'a rather long name', services, parentId: `${id}-golden`, metadata: { task: 'billing' } }),
  ]);
  const titlesAt = async (width: number) => {
    const { stdout } = await vreg(['ls', '-o', 'wide'], { url, tty: true, width, env: { NO_COLOR: '1' } });
    const [titles, row] = stdout.split('\n');
    assert.ok(row!.startsWith(id) && row!.length <= width, row);
    return titles!.split(/ {2,}/);
  };
  const needed = ['ID', 'ROLE', 'STATUS', 'LIVE', 'ADDRESS', 'LAST SEEN'];
  assert.deepEqual(await titlesAt(100), [...needed, '…']);
  assert.deepEqual(await titlesAt(140), ['ID', 'NAME', ...needed.slice(1), 'SERVICES', 'PARENT', 'METADATA', '…']);
});

test('a narrow terminal shows the liveness of a VM rather than its declared status', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab' })]);
  for (let width = 20; width <= 120; width++) {
    const { stdout } = await vreg(['ls'], { url, tty: true, width, env: { NO_COLOR: '1' } });
    const [titles] = stdout.split('\n');
    assert.ok(titles!.includes('LIVE') || !titles!.includes('STATUS'), `${width} columns: ${titles}`);
  }
});

test('addresses that differ in their host look different on a narrow terminal', async (t) => {
  const { url } = await serveApp(t);
  const hosts = ['7c9e6679-7425-40de-944b-e07fc1f90ae7', '7c9e6670-1111-40de-944b-e07fc1f90ae7'];
  await seed(
    url,
    hosts.map((host, n) => aVm({ id: `vm-${n}`, address: `${host}.vm.vers.sh:8080` })),
  );
  const { stdout } = await vreg(['ls'], { url, tty: true, width: 80, env: { NO_COLOR: '1' } });
  const cut = stdout.match(/7c9e\S*…/g);
  assert.equal(new Set(cut).size, 2, stdout);
});

test('on a terminal of 80 columns a fleet with UUIDs shows id, status, address and time, and -q the whole ids', async (t) => {
  const { url } = await serveApp(t);
  const ids = ['3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab', '3f2a9c1e-7b4d-4c2a-9f6e-0123456789cd'];
  await seed(url, [
    aVm({ id: ids[0]!, name: `agent-${ids[0]}`, role: 'lieutenant', address: '192.168.100.200:8080' }),
    aVm({ id: ids[1]!, name: `agent-${ids[1]}`, address: `${ids[1]}.vm.vers.sh` }),
  ]);
  const { stdout } = await vreg(['ls', '--sort', 'id'], { url, tty: true, width: 80, env: { NO_COLOR: '1' } });
  const [titles, ...rows] = stdout.trimEnd().split('\n');
  assert.match(titles!, /^ID .* STATUS +LIVE +ADDRESS +LAST SEEN/);
  assert.match(rows[0]!, /^3f2a9c\S*…\S*789ab .* running +live +192\.168\.100\.20… +\d+\w ago$/);
  assert.match(rows[1]!, /^3f2a9c\S*…\S*789cd .* running +live +3f2a9c1e-7b4d-… +\d+\w ago$/);
  for (const row of rows) assert.ok(row.length <= 80, row);
  const names = await vreg(['ls', '--sort', 'id', '-q'], { url, tty: true, width: 80 });
  assert.equal(names.stdout, `${ids.join('\n')}\n`);
});

test('an empty key in -L exits with 5', async () => {
  for (const keys of ['', 'a,,b', 'a,']) {
    assert.deepEqual(await vreg(['ls', '-L', keys]), {
      code: 5,
      stdout: '',
      stderr: 'vreg: empty value in --meta-columns\nhint: separate the values by single commas\n',
    });
  }
});

test('-o wide shows the parent and the metadata, and -L a column for each metadata key', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [
    aVm({ id: 'a', parentId: 'golden-1', metadata: { task: 'billing', limits: { cpu: 2 }, note: '' } }),
    aVm({ id: 'b' }),
  ]);
  const wide = (await vreg(['ls', '-o', 'wide', '--sort', 'id'], { url })).stdout.split('\n');
  const fields = (line: string | undefined) => line!.split('\t').slice(8, 10);
  assert.deepEqual(fields(wide[0]), ['PARENT', 'METADATA']);
  assert.deepEqual(fields(wide[1]), ['golden-1', 'task=billing,limits={"cpu":2},note=']);
  assert.deepEqual(fields(wide[2]), ['-', '-']);
  for (const flags of [
    ['-L', 'task,limits'],
    ['-L', 'task', '--meta-columns', 'limits'],
  ]) {
    const { stdout } = await vreg(['ls', '--sort', 'id', ...flags], { url });
    const columns = stdout.split('\n').map((line) => line.split('\t').slice(7));
    assert.deepEqual(columns.slice(0, 3), [
      ['TASK', 'LIMITS'],
      ['billing', '{"cpu":2}'],
      ['-', '-'],
    ]);
  }
  assert.match((await vreg(['get', 'a', '-L', 'task'], { url })).stdout, /\tTASK\n.*\tbilling\n$/);
  assert.match(
    (await vreg(['discover', 'worker', '-L', 'constructor'], { url })).stdout,
    /\tCONSTRUCTOR\n.*\t-\n.*\t-\n$/,
  );
  const terminal = await vreg(['ls', '-L', 'task'], { url, tty: true, width: 60, env: { NO_COLOR: '1' } });
  assert.match(terminal.stdout, /^ID .* TASK +…\n/);
});

test('an entry of another registry may lack any field, in every format and table', async (t) => {
  const url = await stub(t, (_request, response) => {
    const vms = [
      { id: 'a', role: 'worker', address: '10.0.0.1' },
      {
        id: 'b',
        role: 'worker',
        address: '10.0.0.2',
        services: null,
        metadata: null,
        parentId: null,
        registeredAt: null,
      },
      { id: 'c', role: 'worker', address: '10.0.0.3', services: [null, 'api'], metadata: 'none', lastSeen: 7 },
    ];
    json(response, 200, { vms, count: vms.length });
  });
  for (const command of ['ls', 'ls --sort name', 'tree', 'discover worker', 'status', 'export'])
    for (const format of ['table', 'wide', 'tsv', 'json', 'ndjson', 'yaml', 'name', 'template={{id}}\\n'])
      for (const tty of [true, false]) {
        const { code, stderr } = await vreg([...command.split(' '), '-o', format], { url, tty });
        if (command !== 'export') assert.deepEqual([code, stderr], [0, ''], `${command} -o ${format}`);
      }
  const { stdout } = await vreg(['ls', '-o', 'wide'], { url });
  assert.match(stdout, /^a\t-\tworker\t-\tstale\t10\.0\.0\.1\t-\t-\t-\t-\t-\t-\t-$/m);
});

test('names are exact in a pipe, so that a command finds the VM, and safe on a terminal', async (t) => {
  const { url } = await serveApp(t);
  const id = 'a\u202eb\u2066c';
  await seed(url, [aVm({ id, name: id })]);
  for (const argv of [['-q'], ['-o', 'jsonpath=$[*].id'], ['-o', 'template={{id}}\\n']]) {
    const { stdout } = await vreg(['ls', ...argv], { url });
    assert.equal(stdout, `${id}\n`);
    assert.equal((await vreg(['get', stdout.trim(), '-q'], { url })).stdout, stdout);
    assert.equal((await vreg(['ls', ...argv], { url, tty: true })).stdout, 'a\ufffdb\ufffdc\n');
  }
  assert.ok((await vreg(['ls', '--no-headers'], { url })).stdout.startsWith(`${id}\t${id}\t`));
  const yaml = (await vreg(['ls', '-o', 'yaml'], { url })).stdout;
  assert.doesNotMatch(yaml, /[\u202a-\u202e\u2066-\u2069]/);
  assert.equal((parse(yaml) as { id: string }[])[0]!.id, id);
});

test('a name with control characters is omitted in a pipe, because no line can contain it', async (t) => {
  const url = await stub(t, (_request, response) => {
    const vms = ['good', 'two\nlines'].map((id) => ({ ...aVm({ id }), registeredAt: AT, lastSeen: AT }));
    json(response, 200, { vms, count: vms.length });
  });
  const { code, stdout, stderr } = await vreg(['ls', '-q'], { url });
  assert.deepEqual([code, stdout], [0, 'good\n']);
  assert.match(stderr, /contains control characters/);
});
