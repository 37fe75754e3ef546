/** The replies of the hidden command to the completion scripts. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { UNIT_COMMAND, UNIT_KINDS } from '../daemon/systemd/units.ts';
import { BRANCHES } from '../src/commands.ts';
import { UNIT_COMMANDS } from '../src/completion/candidates.ts';
import { ROLES } from '../src/protocol/vm.ts';
import { serveApp } from './helpers/app.ts';
import { seed, type VregOptions, vreg } from './helpers/cli.ts';
import { tempDir } from './helpers/daemon.ts';
import { json, stub } from './helpers/stub.ts';
import { aVm } from './helpers/vm.ts';

interface Reply {
  kind: string;
  prefix: string;
  values: string[];
  about: Record<string, string>;
}

/** The reply to zsh or fish after these words; the last one is at the cursor. */
async function complete(words: readonly string[], options: VregOptions = {}): Promise<Reply> {
  const { code, stdout, stderr } = await vreg(['__complete', 'zsh', ...words], options);
  assert.deepEqual([code, stderr], [0, '']);
  const [[kind = '', prefix = ''], ...candidates] = stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.split('\t')) as [string[], ...[string, string][]];
  return { kind, prefix, values: candidates.map(([value]) => value), about: Object.fromEntries(candidates) };
}

/** The candidates for the end of a line, in which words are separated by one space. */
async function offers(line: string, options?: VregOptions): Promise<string[]> {
  const { prefix, values } = await complete(line.split(' '), options);
  return values.map((value) => prefix + value).sort();
}

/** A registry with two workers and an infra VM. */
async function fleet(t: TestContext): Promise<{ url: string }> {
  const { url } = await serveApp(t);
  await seed(url, [
    aVm({
      id: 'w-1',
      name: 'billing',
      metadata: { task: 'billing', zone: 'a,b' },
      services: [{ name: 'api', port: 3001 }],
    }),
    aVm({ id: 'w-2', name: 'w-2', status: 'paused', metadata: { task: 7 }, services: [{ name: 'api', port: 3002 }] }),
    aVm({ id: 'i:1', name: 'i:1', role: 'infra', services: [{ name: 'registry', port: 3000 }] }),
  ]);
  return { url };
}

test('all commands are offered with their summaries, and no alias', async () => {
  const { kind, values, about } = await complete(['']);
  assert.equal(kind, 'values');
  assert.deepEqual(
    values,
    BRANCHES.map(({ name }) => name),
  );
  assert.equal(about.ls, 'list VMs, newest registration first');
  assert.deepEqual(await offers('he'), ['health', 'heartbeat', 'help']);
  assert.deepEqual(await offers('daemon st'), ['status', 'stop']);
  assert.deepEqual(await offers('nonsense '), []);
  assert.deepEqual(await offers('daemon nonsense '), []);
});

test('an alias is offered if the word continues no name', async () => {
  assert.deepEqual(await offers('dereg'), ['deregister']);
  assert.deepEqual(await offers('token li'), ['list']);
});

test('an alias of a command is completed like the command', async () => {
  assert.deepEqual(await offers('ps --role w'), ['worker']);
  assert.deepEqual(await offers('token rm --enr'), ['--enrolled-by']);
});

test('flags of the command and global flags are offered with descriptions', async () => {
  const { values, about } = await complete(['discover', '--']);
  for (const flag of ['--service', '--url', '--json', '--help']) assert.ok(values.includes(flag), flag);
  for (const flag of ['--role', '--version', '-u']) assert.ok(!values.includes(flag), flag);
  assert.equal(about['--service'], 'only VMs with this service');
  assert.ok((await offers('discover -')).includes('-u'));
  assert.ok((await offers('-')).includes('--version'));
});

test('a flag on the line is not offered again unless it is repeatable', async () => {
  const flags = await offers('ls -o json --role=worker -qv --no-headers -');
  for (const flag of ['-o', '--output', '--quiet', '-q', '-v', '--no-headers']) assert.ok(!flags.includes(flag), flag);
  assert.ok(flags.includes('--status'));
  const repeatable = await offers('register x --meta a=b --service api:1 --');
  assert.ok(repeatable.includes('--meta') && repeatable.includes('--service'));
  // The word at the cursor does not count.
  assert.deepEqual(await offers('ls --jso'), ['--json']);
});

test('values of flags are offered in every notation', async () => {
  const roles = [...ROLES].sort();
  assert.deepEqual(await offers('prune --role '), roles);
  assert.deepEqual(
    await offers('prune --role='),
    roles.map((role) => `--role=${role}`),
  );
  assert.deepEqual(await complete(['prune', '--role=wo']), {
    kind: 'values',
    prefix: '--role=',
    values: ['worker'],
    about: { worker: '' },
  });
  assert.deepEqual(await offers('ls -o nd'), ['ndjson']);
  assert.deepEqual(await offers('ls -ond'), ['-ondjson']);
  assert.deepEqual(await offers('ls -qo nd'), ['ndjson']);
  assert.deepEqual(await offers('-o json prune --role work'), ['worker']);
  assert.deepEqual(
    await offers('prune --role worker,'),
    ['custom', 'golden', 'infra', 'lieutenant'].map((role) => `worker,${role}`),
  );
  assert.deepEqual(await offers('prune --role golden,custom --role worker,in'), ['worker,infra']);
  assert.deepEqual(await offers('prune --role infra --role in'), []);
  assert.deepEqual(await offers('prune --nonsense='), []);
  assert.deepEqual(await offers('prune --yes='), []);
});

test('a flag with an optional value is followed by its value or by a flag', async () => {
  assert.deepEqual(await offers('daemon serve --trust-proxy '), ['linklocal', 'loopback', 'uniquelocal']);
  assert.deepEqual(await offers('daemon serve --trust-proxy --por'), ['--port']);
  assert.deepEqual(await offers('daemon serve --trust-proxy loopback --por'), ['--port']);
});

test('fixed values of arguments are offered', async () => {
  assert.deepEqual(await offers('discover in'), ['infra']);
  assert.deepEqual(await offers('discover infra '), []);
  assert.deepEqual(await offers('env infra '), ['custom', 'golden', 'lieutenant', 'worker']);
  assert.deepEqual(await offers('config get stale'), ['stale-after']);
  assert.deepEqual(await offers('config set output nd'), ['ndjson']);
  assert.equal((await complete(['config', 'set', 'token-file', ''])).kind, 'files');
  assert.deepEqual(await offers('help da'), ['daemon']);
  assert.deepEqual(await offers('help daemon se'), ['serve']);
  assert.deepEqual(await offers('help exit'), ['exit-codes']);
  assert.deepEqual(await offers('api GET /he'), ['/health']);
  assert.deepEqual(await offers('watch --since '), ['start']);
});

test('ids are offered with role, state and name, but not those on the line', async (t) => {
  const { url } = await fleet(t);
  const { values, about } = await complete(['get', ''], { url });
  assert.deepEqual(values.sort(), ['i:1', 'w-1', 'w-2']);
  assert.deepEqual(about, { 'i:1': 'infra, live', 'w-1': 'worker, live, "billing"', 'w-2': 'worker, paused' });
  assert.deepEqual(await offers('rm w-1 w', { url }), ['w-2']);
  assert.deepEqual(await offers('watch --id i', { url }), ['i:1']);
  assert.deepEqual(await offers('register x --parent=w-', { url }), ['--parent=w-1', '--parent=w-2']);
});

test('wait offers roles and ids, and roles without a registry', async (t) => {
  const { url } = await fleet(t);
  assert.deepEqual(await offers('wait w', { url }), ['w-1', 'w-2', 'worker']);
  assert.deepEqual(await offers('wait '), [...ROLES].sort());
  const { kind, values } = await complete(['wait', '--for', 'cou']);
  assert.deepEqual([kind, values], ['nospace', ['count=']]);
});

test('services are offered, of VMs with the role on the line', async (t) => {
  const { url } = await fleet(t);
  assert.deepEqual(await offers('url worker --service ', { url }), ['api']);
  assert.deepEqual(await offers('url --service ', { url }), ['api', 'registry']);
  assert.deepEqual(await offers('register x --service=a', { url }), ['--service=api:3001', '--service=api:3002']);
});

test('metadata keys and values are offered', async (t) => {
  const { url } = await fleet(t);
  assert.deepEqual(await complete(['register', 'x', '--meta', 't'], { url }), {
    kind: 'nospace',
    prefix: '',
    values: ['task='],
    about: { 'task=': '' },
  });
  assert.deepEqual(await offers('register x --meta task=', { url }), ['task=7', 'task=billing']);
  assert.deepEqual(await offers('update w-2 --unset-meta ', { url }), ['task']);
  assert.deepEqual(await offers('ls -l ', { url }), ['task=', 'zone=']);
  assert.deepEqual(await offers('ls -l task!=7,!z', { url }), ['task!=7,!zone']);
  assert.deepEqual(await offers('ls --selector=zone,task==b', { url }), ['--selector=zone,task==billing']);
  // A selector cannot contain a value with a comma.
  assert.deepEqual(await offers('ls -l zone=', { url }), []);
});

test('token names are offered with their scopes', async (t) => {
  const { url } = await serveApp(t, { token: 'secret' });
  const options = { url, env: { VREG_TOKEN: 'secret' } };
  await vreg(['token', 'create', 'dash', '--scope', 'read'], options);
  await vreg(['token', 'create', 'image', '--scope', 'enrol', '--role', 'worker'], options);
  const { values, about } = await complete(['token', 'revoke', ''], options);
  assert.deepEqual(values.sort(), ['dash', 'image']);
  assert.equal(about.image, 'enrol');
  assert.deepEqual(await offers('token revoke dash ', options), ['image']);
  assert.deepEqual(await offers('token ls --enrolled-by=i', options), ['--enrolled-by=image']);
  assert.deepEqual(await offers('token revoke ', { url }), []);
});

/** A home folder with a config file. */
function homeWith(t: TestContext, config: unknown): string {
  const home = tempDir(t);
  mkdirSync(join(home, '.config/vreg'), { recursive: true });
  writeFileSync(join(home, '.config/vreg/config.json'), typeof config === 'string' ? config : JSON.stringify(config));
  return home;
}

test('contexts are offered with their URLs', async (t) => {
  const home = homeWith(t, { contexts: { prod: { url: 'http://p:1' }, dev: { url: 'http://user:secret@d:1' } } });
  const { values, about } = await complete(['-c', ''], { home });
  assert.deepEqual(values, ['prod', 'dev']);
  assert.equal(about.prod, 'http://p:1');
  assert.ok(!about.dev!.includes('secret'));
  assert.deepEqual(await offers('ls --context=p', { home }), ['--context=prod']);
  for (const command of ['use', 'rm', 'show', 'add'])
    assert.deepEqual(await offers(`context ${command} d`, { home }), ['dev']);
  assert.deepEqual(await offers('-c ', { home: homeWith(t, 'broken') }), []);
});

test('flags on the line decide which registry is asked', async (t) => {
  const { url } = await fleet(t);
  const { url: other } = await serveApp(t);
  await seed(other, [aVm({ id: 'other' })]);
  const home = homeWith(t, { contexts: { b: { url: other } } });
  for (const line of [
    `-u ${other} get `,
    `get -u ${other} `,
    `get --url=${other} `,
    `get -u${other} `,
    `get -qu ${other} `,
    '-c b get ',
    'get --context=b ',
    'get --url=$B ',
  ]) {
    assert.deepEqual(await offers(line, { url, home, env: { B: other } }), ['other'], line);
  }
  assert.deepEqual(await offers(`get i`, { url, home }), ['i:1']);
  // Another registry must not be asked instead.
  for (const line of ['get -u nonsense ', 'get -u $UNSET ', 'get -c nonsense '])
    assert.deepEqual(await offers(line, { url, home }), [], line);
});

test('a token file on the line is used unless reading it could block', async (t) => {
  const authorizations: (string | undefined)[] = [];
  const url = await stub(t, ({ headers }, response) => {
    authorizations.push(headers.authorization);
    json(response, 200, { vms: [aVm({ id: 'x' })], count: 1 });
  });
  const home = tempDir(t);
  writeFileSync(join(home, 'token'), 'secret-1\n', { mode: 0o600 });
  execFileSync('mkfifo', [join(home, 'pipe')]);
  assert.deepEqual(await offers(`get --token-file ${home}/token `, { url, home }), ['x']);
  assert.deepEqual(await offers('get --token-file=~/token ', { url, home }), ['x']);
  assert.deepEqual(await offers(`get --token-file ${home}/pipe `, { url, home }), []);
  assert.deepEqual(await offers(`get --token-file ${home}/missing `, { url, home }), []);
  assert.deepEqual(authorizations, ['Bearer secret-1', 'Bearer secret-1']);
});

test('files are completed by the shell', async () => {
  for (const words of [
    ['ls', '--token-file', ''],
    ['register', '-f', ''],
    ['backup', ''],
    ['daemon', 'restore', ''],
    ['token', 'create', 'x', '--to', ''],
    ['daemon', 'agent', '--data-dir', ''],
  ]) {
    assert.deepEqual(await complete(words), { kind: 'files', prefix: '', values: [], about: {} }, words.join(' '));
  }
  assert.equal((await complete(['ls', '--ca-file=./c'])).prefix, '--ca-file=');
  for (const [word, kind, prefix] of [
    ['a', 'files', ''],
    ['a.mustache:', 'files', 'a.mustache:'],
    ['a.mustache:b:nginx', 'values', ''],
  ] as const) {
    const reply = await complete(['render', 'x:y', word]);
    assert.deepEqual([reply.kind, reply.prefix], [kind, prefix], word);
  }
});

test('a program after -- is completed by the shell', async () => {
  for (const words of [
    ['exec', 'infra', '--', ''],
    ['exec', 'infra', '--pick', 'first', '--', 'ls', '--al'],
    ['watch', '--', ''],
    ['watch', 'worker', '--', 'ls', '-'],
  ]) {
    assert.deepEqual(await complete(words), { kind: 'program', prefix: '', values: [], about: {} }, words.join(' '));
  }
  assert.deepEqual(await offers('exec infra '), []);
  assert.equal((await complete(['exec', 'infra', '--', '--pick', ''])).kind, 'program');
});

test('flags after -- of daemon unit and daemon install are those of the command that the unit runs', async (t) => {
  for (const kind of UNIT_KINDS)
    assert.deepEqual(UNIT_COMMANDS[kind], UNIT_COMMAND[kind].slice(0, UNIT_COMMANDS[kind]!.length), kind);
  assert.deepEqual(await offers('daemon unit agent -- --on-ex'), ['--on-exit']);
  assert.deepEqual(await offers('daemon install serve --user -- --port 1 --log-level de'), ['debug']);
  assert.deepEqual(await offers('daemon unit nonsense -- --'), []);
  const { url } = await fleet(t);
  assert.deepEqual(await offers('daemon unit heartbeat-timer -- w', { url, env: { VREG_URL: url } }), ['w-1', 'w-2']);
});

test('arguments after -- of other commands are no flags', async (t) => {
  const { url } = await fleet(t);
  assert.deepEqual(await offers('get -- w', { url }), ['w-1', 'w-2']);
  assert.deepEqual(await offers('get -- -', { url }), []);
});

test('values with control characters, and ids that look like flags, are not offered', async (t) => {
  const ids = ['good', 'a\nb', 'a\tb', 'a\u001b[2Jb', '-rf', 'a\u202eb', '', 7, null];
  const vms = ids.map((id) => ({
    id,
    name: 'n\t\u001b[2J\nx',
    role: 'worker',
    status: 'running',
    services: [{ name: 'a\nb', port: 1 }, { name: 'ok', port: 1 }, null],
    metadata: { 'k\n': 1, ok: 'v\nw', '--k': 2, 'a b': 3 },
    lastSeen: new Date().toISOString(),
  }));
  const url = await stub(t, (_request, response) => json(response, 200, { vms, count: 1 }));
  const { values, about } = await complete(['get', ''], { url });
  assert.deepEqual(values, ['good', '7', 'null']);
  assert.ok(!/[\u0000-\u001f]/.test(Object.values(about).join('')));
  assert.deepEqual(await offers('url --service ', { url }), ['ok']);
  assert.deepEqual(await offers('ls -l ', { url }), ['ok=']);
  assert.deepEqual(await offers('ls -l ok=', { url }), []);
});

test('fish is offered no value at whose start it would expand a tilde', async (t) => {
  const url = await stub(t, (_request, response) => json(response, 200, { vms: [aVm({ id: '~root' })], count: 1 }));
  assert.deepEqual(await offers('get ', { url }), ['~root']);
  const { stdout } = await vreg(['__complete', 'fish', 'get', ''], { url });
  assert.equal(stdout, 'values\t\n');
});

for (const body of [{}, { vms: 1 }, { vms: [null] }, { vms: [{ services: 1, metadata: [] }] }, []]) {
  test(`a registry that responds with ${JSON.stringify(body)} offers nothing`, async (t) => {
    const url = await stub(t, (_request, response) => json(response, 200, body));
    for (const line of ['get ', 'url --service ', 'ls -l ', 'ls -l a=', 'token revoke '])
      assert.ok(
        (await offers(line, { url })).every((value) => value === 'undefined'),
        line,
      );
  });
}

test('an error of any kind offers nothing and prints nothing', async (t) => {
  const refusing = await stub(t, (_request, response) => json(response, 401, { error: 'no' }));
  assert.deepEqual(await offers('get ', { url: refusing }), []);
  assert.deepEqual(await offers('get '), []);
  for (const env of [
    { VREG_URL: 'nope' },
    { VREG_OUTPUT: 'xml' },
    { VREG_TOKEN_FILE: '/nonexistent' },
    { VREG_TIMEOUT: 'x' },
  ])
    assert.deepEqual(await offers('get ', { env }), []);
  for (const args of [[], ['tcsh', 'ls'], ['zsh'], ['bash'], ['bash', 'vreg', '', '', 'x']]) {
    const { code, stderr } = await vreg(['__complete', ...args]);
    assert.deepEqual([code, stderr], [0, '']);
  }
});

test('a registry that does not respond delays the reply by at most 300 ms', async (t) => {
  const url = await stub(t, () => {});
  const before = performance.now();
  assert.deepEqual(await offers('get -v --timeout 1h ', { url, elapsed: 50 }), []);
  // The limit is 250 ms here, but the machine may be busy.
  assert.ok(performance.now() - before < 3000);
});

test('on a busy machine, a registry may take as long as the start of the process', async (t) => {
  const url = await stub(t, (_request, response) => {
    setTimeout(() => json(response, 200, { vms: [aVm({ id: 'x' })], count: 1 }), 400);
  });
  assert.deepEqual(await offers('get ', { url, elapsed: 50 }), []);
  assert.deepEqual(await offers('get ', { url, elapsed: 5000 }), ['x']);
});

test('completion writes no files', async (t) => {
  const home = tempDir(t);
  await offers('-c ', { home });
  await offers('get ', { home });
  assert.deepEqual(readdirSync(home), []);
});

test('the command is not listed', async () => {
  assert.ok(!(await vreg(['--help'])).stdout.includes('__complete'));
  assert.ok(!(await offers('')).includes('__complete'));
  assert.deepEqual(await offers('__'), []);
});
