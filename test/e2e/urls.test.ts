/** The real program with several URLs: commands, streams and the agent, while the registry behind one of the URLs is gone or frozen. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { find, heardAfter, startAgent } from '../helpers/agent/agent.ts';
import { type Issued, makeAuthority } from '../helpers/certificates.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, type Ran, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { type Door, openDoor } from '../helpers/door.ts';
import { call } from '../helpers/http.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { startMcp } from '../helpers/mcp.ts';
import { startVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const REFUSED = 'http://127.0.0.1:1';

interface Replicas {
  registry: Pick<Daemon, 'url' | 'token'>;
  /** Home of the commands. */
  home: string;
  a: Door;
  b: Door;
  /** Both URLs, that of `a` first. */
  urls: string;
  /** Runs `vreg` with both URLs unless the environment has others. */
  vreg(args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Ran>;
}

/** One registry behind two doors, as two replicas of it. @param registry by default, one in this process */
async function replicas(t: TestContext, registry?: Replicas['registry']): Promise<Replicas> {
  registry ??= await serveLive(t);
  const home = tempDir(t);
  const [a, b] = [await openDoor(t, registry.url), await openDoor(t, registry.url)];
  const urls = `${a.url},${b.url}`;
  const vreg: Replicas['vreg'] = (args, env) =>
    run(PROGRAM, [...ENTRY, ...args], { env: cleanEnv(home, { VERS_INFRA_URL: urls, ...env }) });
  return { registry, home, a, b, urls, vreg };
}

const REGISTER = ['register', 'infra-1', '--name', 'infra', '--role', 'infra', '--service', 'board:3001'];

for (const fault of ['closed', 'frozen'] as const) {
  test(`every command works while the registry behind the first URL is ${fault}`, async (t) => {
    const { a, b, vreg } = await replicas(t);
    if (fault === 'closed') await a.close();
    else a.freeze();
    const registered = await vreg([...REGISTER, '--address', '10.0.0.1', '-v']);
    assert.equal(registered.code, 0, registered.stderr);
    assert.match(registered.stderr, new RegExp(`POST ${b.url}/registry/vms\\?include=liveness 201`));
    assert.doesNotMatch(registered.stderr, new RegExp(`POST ${a.url}`));
    const outputs: [args: string[], stdout: RegExp][] = [
      [['addr', 'infra'], /^10\.0\.0\.1\n$/],
      [['url', 'infra'], /^http:\/\/10\.0\.0\.1:3001\n$/],
      [['exec', 'infra', '--', 'sh', '-c', 'echo $VREG_VM_URL'], /^http:\/\/10\.0\.0\.1:3001\n$/],
      [['env', 'infra'], /VREG_INFRA_URL=http:\/\/10\.0\.0\.1:3001/],
      [['ls', '-q'], /^infra-1\n$/],
      [['get', 'infra-1', '-q'], /^infra-1\n$/],
      [['heartbeat', 'infra-1', '-q'], /^infra-1\n$/],
      [['health'], /^ok\n$/],
      [['status'], new RegExp(`^registry ${b.url} \\(URL 2 of 2\\): ok`)],
      [['wait', 'infra', '--timeout', '20s', '-q'], /^infra-1\n$/],
    ];
    const check = async (args: string[], expected: RegExp) => {
      const { code, stdout, stderr } = await vreg(args);
      assert.match(stdout, expected, `${args.join(' ')}: ${stderr}`);
      assert.deepEqual([args, code], [args, 0]);
    };
    // Concurrently, because each of them waits for the first URL.
    await Promise.all(outputs.map((each) => check(...each)));
    await check(['__complete', 'zsh', 'get', 'i'], /^infra-1\t/m);
    await check(['rm', 'infra-1', '--yes'], /infra-1/);
  });
}

test('with -v, each request names the URL that has responded, and each failed one its cause', async (t) => {
  const { b, vreg } = await replicas(t);
  const { stderr } = await vreg(['addr', 'infra', '-v'], { VERS_INFRA_URL: `${REFUSED},${b.url}` });
  assert.match(
    stderr,
    new RegExp(`^vreg: GET ${REFUSED}/registry/discover/infra\\?include=liveness ECONNREFUSED \\d+ ms\n`),
  );
  assert.match(stderr, new RegExp(`\nvreg: GET ${b.url}/registry/discover/infra\\?include=liveness 200 \\d+ ms\n`));
});

test('if no URL works, a command exits with 8 and names each URL with its cause', async (t) => {
  const env = cleanEnv(tempDir(t), { VERS_INFRA_URL: `${REFUSED},http://127.0.0.1:2` });
  for (const args of [['ls'], ['addr', 'infra'], ['rm', 'vm-1', '--yes']]) {
    const { code, stderr } = await run(PROGRAM, [...ENTRY, ...args], { env });
    assert.equal(code, 8);
    assert.match(
      stderr,
      /cannot reach the registry at http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\), http:\/\/127\.0\.0\.1:2 \(ECONNREFUSED, from VERS_INFRA_URL\)\n/,
    );
  }
});

test('URLs come from a flag, a variable, a context and the config file', async (t) => {
  const { a, b, urls, vreg } = await replicas(t);
  await a.close();
  const lines = async (args: readonly string[], env: NodeJS.ProcessEnv = {}) => {
    const { stdout, stderr } = await vreg(['status', ...args], { VERS_INFRA_URL: '', ...env });
    return `${stdout}${stderr}`;
  };
  const found = new RegExp(`^registry ${b.url} \\(URL 2 of 2\\): ok`);
  assert.match(await lines(['--url', urls]), found);
  assert.match(await lines([], { VREG_URL: `${a.url} , ${b.url}/` }), found);
  const env = { VERS_INFRA_URL: '' };
  assert.equal((await vreg(['context', 'add', 'prod', '--url', urls], env)).code, 0);
  assert.match(await lines(['-c', 'prod']), found);
  assert.match((await vreg(['context', 'show', 'prod', '-o', 'json'], env)).stdout, new RegExp(`"${urls}"`));
  assert.equal((await vreg(['config', 'set', 'url', urls], env)).code, 0);
  assert.match(await lines([]), found);
});

test('a watch goes on at the next URL after its last event, without losing or repeating one', async (t) => {
  for (const fault of ['closed', 'cut'] as const) {
    const { registry, home, a, b, urls } = await replicas(t);
    const env = cleanEnv(home, { VERS_INFRA_URL: urls });
    const watch = startVreg(t, ['watch', '--since', 'start', '-o', 'ndjson'], { env });
    const register = (id: string) => call(registry.url, 'POST', '/registry/vms', { body: aVm({ id }) });
    const ids = () => [...watch.stdout().matchAll(/"id":"(vm-\d)"/g)].map(([, id]) => id);
    await register('vm-1');
    await until('the first event', () => ids().length === 1);
    if (fault === 'closed') await a.close();
    else a.cut();
    await register('vm-2');
    await until('the second event', () => ids().length === 2);
    await register('vm-3');
    await until('the third event', () => ids().length === 3);
    assert.deepEqual(ids(), ['vm-1', 'vm-2', 'vm-3']);
    assert.ok(b.visits > 0);
    await watch.end();
  }
});

test('a watch leaves a frozen registry and goes on at the next URL after its last event', async (t) => {
  const { registry, home, a, urls } = await replicas(t);
  const env = cleanEnv(home, { VERS_INFRA_URL: urls });
  const watch = startVreg(t, ['watch', '--since', 'start', '-o', 'ndjson', '-v'], { env });
  const register = (id: string) => call(registry.url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const ids = () => [...watch.stdout().matchAll(/"id":"(vm-\d)"/g)].map(([, id]) => id);
  await register('vm-1');
  await until('the first event', () => ids().length === 1);
  a.freeze();
  await register('vm-2');
  await until('the second event', () => ids().length === 2);
  assert.deepEqual(ids(), ['vm-1', 'vm-2']);
  const [, elapsed] = new RegExp(`stream from ${a.url} TimeoutError (\\d+) ms`).exec(watch.stderr())!;
  // Without probes, it is left after 45 s.
  assert.ok(Number(elapsed) < 20_000, elapsed);
});

test('a write to a registry that freezes meanwhile ends with 6 before the timeout, and the next command works', async (t) => {
  const { a, vreg } = await replicas(t);
  a.freezeAt('PATCH');
  assert.equal((await vreg([...REGISTER, '--address', '10.0.0.1'])).code, 0);
  const { code, stderr } = await vreg(['update', 'infra-1', '--name', 'two', '--timeout', '10m']);
  assert.equal(code, 6, stderr);
  assert.match(
    stderr,
    /no response to PATCH .*\(no response within 3(\.\d)? s, .*see whether it took effect: vreg get infra-1/s,
  );
  assert.equal((await vreg(['get', 'infra-1', '-q'])).stdout, 'infra-1\n');
});

test('vreg mcp waits for a frozen first URL once, not in each call', async (t) => {
  const { a, urls } = await replicas(t);
  a.freeze();
  const mcp = await startMcp(t, { url: urls });
  const list = async () => {
    const { isError, content } = await mcp.call('registry_list');
    assert.ok(!isError, content[0]!.text);
  };
  await list();
  const { visits } = a;
  assert.ok(visits > 0);
  await list();
  assert.equal(a.visits, visits);
});

test(
  'a client changes to the next URL over https, and refuses a server whose certificate it does not trust',
  unless('openssl'),
  async (t) => {
    const [trusted, other] = [makeAuthority(t), makeAuthority(t, 'Other CA')];
    const start = ({ cert, key }: Issued) => startDaemon(t, { args: ['--tls-cert', cert, '--tls-key', key] });
    const daemon = await start(trusted.issue('server'));
    const stranger = await start(other.issue('stranger'));
    const [a, b] = [await openDoor(t, daemon.url), await openDoor(t, daemon.url)].map((door) => ({
      ...door,
      url: door.url.replace('http:', 'https:'),
    }));
    const ask = (urls: readonly string[], ...args: string[]) =>
      daemon.vreg(args, { env: { VERS_INFRA_URL: urls.join(','), VREG_CA_FILE: trusted.ca } });
    a!.freeze();
    const registered = await ask([a!.url, b!.url], ...REGISTER, '--address', '10.0.0.1');
    assert.equal(registered.code, 0, registered.stderr);
    await a!.close();
    assert.equal((await ask([a!.url, b!.url], 'addr', 'infra')).stdout, '10.0.0.1\n');
    const { stdout, stderr } = await ask([stranger.url, b!.url], 'addr', 'infra', '-v');
    assert.equal(stdout, '10.0.0.1\n');
    assert.match(stderr, new RegExp(`GET ${stranger.url}/\\S+ (UNABLE_TO|SELF_SIGNED|DEPTH_)`));
  },
);

test('an agent uses the next URL while the first one is gone, and raises no alarm about another registry', async (t) => {
  const daemon = await startDaemon(t);
  const { a, b, urls } = await replicas(t, daemon);
  const agent = startAgent(t, urls);
  await until('the agent has the response', () => agent.said().includes('registered this VM'));
  const first = (await find(daemon))!;
  // The registration includes a heartbeat; with the next one, it is over.
  for (let i = 0; i < 2; i++) await heardAfter(daemon, (await find(daemon))!.lastSeen);
  for (const [fault, other] of [
    [() => a.close(), b],
    [() => b.freeze(), a],
  ] as const) {
    await fault();
    const { lastSeen } = (await find(daemon))!;
    await heardAfter(daemon, lastSeen);
    await until('the log names the URL', () => agent.said().includes(`the registry now responds at ${other.url}`));
    await Promise.all([a.open(), b.open()]);
  }
  const { registeredAt } = (await find(daemon))!;
  assert.equal(registeredAt, first.registeredAt);
  assert.doesNotMatch(
    agent.said(),
    /restored|rewound|in turn|different registries|other registry|"level":"(warn|error)"/,
  );
  assert.doesNotMatch(daemon.said(), /rollback_detected|conflict/);
  const { ms, code } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < 10_000);
  assert.equal((await find(daemon))!.status, 'stopped');
});

test('an agent that starts and stops while the first URL is frozen registers the VM and signs it off at the next one', async (t) => {
  const { registry, a, urls } = await replicas(t);
  a.freeze();
  const agent = startAgent(t, urls, ['--interval', '20s']);
  await until('the VM is registered', () => find(registry));
  await agent.end();
  assert.equal((await find(registry))!.status, 'stopped');
});

test('an agent whose URLs lead to different registries warns of that with both URLs, and keeps its VM live', async (t) => {
  const [one, two] = [await startDaemon(t), await startDaemon(t)];
  const door = await openDoor(t, one.url);
  const agent = startAgent(t, `${door.url},${two.url}`);
  await until('the VM is registered', () => find(one));
  await door.close();
  await until('the VM is registered at the other one', () => find(two));
  await until('the warning', () => agent.said().includes('the URLs lead to different registries'));
  const [line] = /[^\n]*lead to different registries[^\n]*/.exec(agent.said())!;
  for (const url of [door.url, two.url]) assert.ok(line.includes(`${url} is the registry `), line);
});

test('doctor checks each URL, and fails if they lead to different registries', async (t) => {
  const daemon = await startDaemon(t);
  const { a, b, urls, vreg } = await replicas(t, daemon);
  const checks = ({ stdout }: Ran) =>
    (JSON.parse(stdout) as { check: string; result: string; detail: string }[])
      .filter(({ check }) => check.startsWith('url'))
      .map(({ check, result, detail }) => [check, result, detail.replace(/, up .*/, '')]);
  const responds = (url: string) => `${url}: the registry responds`;
  const both = await vreg(['doctor', '-o', 'json']);
  assert.equal(both.code, 0, both.stdout);
  assert.deepEqual(checks(both), [
    ['url 1', 'ok', responds(a.url)],
    ['url 2', 'ok', responds(b.url)],
  ]);
  await a.close();
  const one = await vreg(['doctor', '-o', 'json']);
  assert.equal(one.code, 0, one.stdout);
  assert.deepEqual(checks(one), [
    ['url 1', 'warn', `reach: cannot reach the registry at ${a.url} (ECONNREFUSED, from VERS_INFRA_URL)`],
    ['url 2', 'ok', responds(b.url)],
  ]);
  await b.close();
  assert.equal((await vreg(['doctor'])).code, 8);
  const other = await startDaemon(t);
  const different = await vreg(['doctor', '-o', 'json'], { VERS_INFRA_URL: `${daemon.url},${other.url}` });
  assert.equal(different.code, 5);
  assert.match(checks(different)[2]!.join(' '), new RegExp(`urls fail .*${daemon.url} \\(.*${other.url} \\(`));
  assert.ok(urls);
});

const INVALID: readonly [urls: string, message: RegExp][] = [
  ['http://a:3000,b:3000', /^vreg: invalid url 2 of 2 "b:3000" \(from flag --url\)\n/],
  ['http://a:3000,,http://b', /^vreg: invalid url 2 of 3 "" \(from flag --url\)\n/],
  [
    'http://a:3000,http://b?x=secret',
    /^vreg: invalid url 2 of 2 \(from flag --url\): it contains a query or fragment\n/,
  ],
  [
    'http://u:secret@a,http://b',
    /^vreg: invalid url 1 of 2 \(from flag --url\): it contains a user name or password\n/,
  ],
  [
    'http://a,http://u:se,secret@b',
    /^vreg: invalid url 3 of 3 \(from flag --url\): it contains a user name or password\n/,
  ],
];

test('an invalid URL in a list is refused with its position, and a password is not repeated', async (t) => {
  const home = tempDir(t);
  for (const [urls, message] of INVALID) {
    const { code, stderr } = await run(PROGRAM, [...ENTRY, 'ls', '--url', urls], { env: cleanEnv(home) });
    assert.equal(code, 5);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /secret/);
  }
});

test('secrets in the URLs of a context are masked, each of them', async (t) => {
  const home = tempDir(t);
  const env = cleanEnv(home);
  mkdirSync(join(home, 'config/vreg'), { recursive: true });
  const url = 'http://u:se,cret@a:1,http://b:2,https://v:secret@c';
  writeFileSync(join(home, 'config/vreg/config.json'), JSON.stringify({ contexts: { prod: { url } } }), {
    mode: 0o600,
  });
  for (const args of [
    ['context', 'ls'],
    ['context', 'show', 'prod'],
    ['__complete', 'zsh', 'context', 'use', ''],
    ['ls', '-c', 'prod'],
  ]) {
    const { stdout, stderr } = await run(PROGRAM, [...ENTRY, ...args], { env });
    assert.doesNotMatch(stdout + stderr, /cret/, args.join(' '));
    if (args[1] === 'ls') assert.match(stdout, /http:\/\/\*\*\*@a:1,http:\/\/b:2,https:\/\/\*\*\*@c/);
  }
});

test('a unit for the agent contains the URLs', async (t) => {
  const env = cleanEnv(tempDir(t));
  const unit = (...args: string[]) =>
    run(PROGRAM, [...ENTRY, 'daemon', 'unit', 'agent', '--user', '--', ...args], { env });
  const { code, stdout } = await unit('--url', 'http://a:3000,http://b:3000');
  assert.equal(code, 0);
  assert.match(stdout, /^ExecStart=.* --url "?http:\/\/a:3000,http:\/\/b:3000"?$/m);
  const invalid = await unit('--url', 'http://a:3000,nonsense');
  assert.equal(invalid.code, 5);
  assert.match(invalid.stderr, /invalid url 2 of 2 "nonsense"/);
});

test('the files of an agent with several URLs name the scheme as with one, and the cached address is used when both are gone', async (t) => {
  const { a, b, urls, vreg } = await replicas(t);
  const runDir = join(tempDir(t), 'run');
  startAgent(t, urls, ['--run-dir', runDir, '--role', 'infra', '--address', '10.0.0.9', '--service', 'board:3001']);
  await until('the last file', () => existsSync(join(runDir, 'env')));
  assert.equal(readFileSync(join(runDir, 'by-role/infra/url'), 'utf8'), 'http://10.0.0.9:3001\n');
  await a.close();
  await b.close();
  const cached = await vreg(['addr', 'infra', '--max-stale', '1h'], { VREG_RUN_DIR: runDir });
  assert.equal(cached.stdout, '10.0.0.9\n', cached.stderr);
});
