/** Rules that hold for every command: usage errors, untrusted servers, secrets, column titles. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

test('an unknown command or flag exits with 5, a suggestion and a hint', async () => {
  assert.deepEqual(await vreg(['lss']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: unknown command: lss; did you mean "ls"?\nhint: list the commands: vreg --help\n',
  });
  assert.deepEqual(await vreg(['ls', '--rolle', 'infra']), {
    code: 5,
    stdout: '',
    stderr: "vreg: unknown option '--rolle'; did you mean --role?\nhint: see the usage: vreg ls --help\n",
  });
  for (const [argv, meant] of [
    ['ls --roles=x', '--role'],
    ['ls -role x', '--role'],
    ['ls --sel=x', '--selector'],
    ['ls --otuput=json', '--output'],
    ['daemon serve --prot=1', '--port'],
  ] as const)
    assert.match((await vreg(argv.split(' '))).stderr, new RegExp(`; did you mean ${meant}\\?\n`), argv);
  const json = await vreg(['ls', '--rolle', 'infra', '--json']);
  assert.equal((JSON.parse(json.stderr) as { error: { code: string } }).error.code, 'USAGE');
});

test('help, completion scripts and version open no connection', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => new Promise((resolve) => server.close(resolve)));
  let connections = 0;
  server.on('connection', (socket) => {
    connections++;
    socket.destroy();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  for (const argv of ['--help', 'ls --help', 'help get', 'version', 'completion fish', 'config list', 'lss']) {
    await vreg(argv.split(' '), { url });
  }
  assert.equal(connections, 0);
  // The server counts connections.
  await vreg(['ls'], { url });
  assert.ok(connections > 0);
});

/** A server that sends the same response to every request. */
function answering(t: TestContext, status: number, body: unknown, type = 'application/json'): Promise<string> {
  return stub(t, (_request, response) => {
    response.writeHead(status, { 'content-type': type }).end(typeof body === 'string' ? body : JSON.stringify(body));
  });
}

// ESC, BEL, CSI as one character, CR, LF, TAB, DEL, right-to-left override, line separator.
const EVIL = 'x\u001b[2J\u0007\u009b31m\r\n\t\u007f\u202e\u2028y';
const RAW = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029]/;
const VM = {
  id: EVIL,
  name: EVIL,
  role: EVIL,
  status: EVIL,
  address: EVIL,
  services: [{ name: EVIL, port: 1 }],
  metadata: { [EVIL]: EVIL },
  registeredBy: EVIL,
  registeredAt: EVIL,
  lastSeen: EVIL,
  deleted: EVIL,
};

const COMMANDS = [
  'ls',
  'get a',
  'get a b',
  'describe a',
  'describe a b',
  'pause a',
  'rm a --yes',
  'heartbeat a',
  'register a',
];

for (const format of ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv']) {
  for (const tty of [true, false]) {
    test(`control characters from a server are never printed raw, with -o ${format} ${tty ? 'on a terminal' : 'in a pipe'}`, async (t) => {
      const url = await answering(t, 200, { ...VM, vms: [VM], count: 1 });
      for (const command of COMMANDS) {
        const { stdout, stderr } = await vreg([...command.split(' '), '-o', format, '--no-headers'], {
          url,
          tty,
          env: { NO_COLOR: '1' },
        });
        assert.doesNotMatch(stdout, RAW, command);
        assert.doesNotMatch(stderr, RAW, command);
        // Line-based formats for scripts omit the row of a VM whose id is not safe there.
        if (stdout.trim() === '' && (format === 'tsv' || !tty)) {
          assert.match(stderr, /not safe to use in scripts/, command);
          continue;
        }
        assert.match(stdout, /x.*y/, command);
        // Formats for line-based scripts must not contain additional line breaks.
        const lines = stdout.split('\n').length - 1;
        const isLineBased =
          ['name', 'ndjson'].includes(format) || (format === 'tsv' && !command.startsWith('describe'));
        if (isLineBased) assert.equal(lines, command.endsWith(' a b') ? 2 : 1, command);
      }
      // These commands are for scripts, which must not get such a VM in any form.
      for (const command of ['discover infra', 'addr infra', 'url infra', 'env infra']) {
        const { code, stdout, stderr } = await vreg([...command.split(' '), '-o', format], { url, tty });
        assert.deepEqual([code, stdout], [5, ''], command);
        assert.doesNotMatch(stderr, RAW, command);
      }
    });
  }
}

test('JSON output preserves escaped control characters', async (t) => {
  const url = await answering(t, 200, { vms: [VM], count: 1 });
  const [vm] = JSON.parse((await vreg(['ls', '--json'], { url })).stdout) as (typeof VM)[];
  assert.equal(vm!.name, EVIL);
});

for (const json of [true, false]) {
  test(`control characters in an error are never printed raw${json ? ' in JSON' : ''}`, async (t) => {
    const url = await answering(t, 400, { error: EVIL, hint: EVIL });
    for (const command of ['ls', 'get a b', 'register a', 'rm a b --yes']) {
      const { code, stdout, stderr } = await vreg([...command.split(' '), ...(json ? ['--json'] : [])], { url });
      assert.deepEqual([code, stdout], [5, '']);
      assert.doesNotMatch(stderr, RAW);
    }
  });
}

const NOT_A_REGISTRY: readonly [
  name: string,
  status: number,
  body: unknown,
  type: string,
  code: number,
  ofWrite?: number,
][] = [
  ['a web page', 200, '<html>hello</html>', 'text/html', 1],
  ['an empty answer', 200, '', 'text/plain', 1],
  ['another JSON', 200, { hello: 1 }, 'application/json', 1],
  ['a JSON list', 200, [], 'application/json', 1],
  ['a JSON null', 200, 'null', 'application/json', 1],
  ['a redirect', 302, '', 'text/plain', 1],
  ['a 404 page', 404, '<html>', 'text/html', 1],
  ['a gateway’s 502', 502, '<html>', 'text/html', 8, 6],
  ['a gateway’s 504', 504, '<html>', 'text/html', 8, 6],
  ['a bare 500', 500, 'oops', 'text/plain', 1],
  ['a 418', 418, 'teapot', 'text/plain', 1],
];

for (const [name, status, body, type, code, ofWrite = code] of NOT_A_REGISTRY) {
  test(`${name} instead of a registry is an error with the HTTP status and a hint`, async (t) => {
    const url = await answering(t, status, body, type);
    for (const command of ['ls', 'get a', 'discover infra', 'register a', 'pause a']) {
      const expected = /^(register|pause)/.test(command) ? ofWrite : code;
      const result = await vreg(command.split(' '), { url });
      assert.deepEqual([result.code, result.stdout], [expected, ''], `${command}: ${result.stderr}`);
      assert.match(result.stderr, new RegExp(String(status)), command);
      assert.match(result.stderr, /\nhint: .+\n$/, command);
      assert.doesNotMatch(result.stderr, /unexpected error|<html>/, command);
    }
  });
}

test('a registry that does not respond in time exits with 8 and names the timeout', async (t) => {
  const url = await stub(t, () => {});
  const { code, stderr } = await vreg(['ls', '--timeout', '100ms'], { url });
  assert.equal(code, 8);
  assert.match(
    stderr,
    /^vreg: cannot reach the registry at .* \(no response within 0\.1 s, from VERS_INFRA_URL\)\nhint: /,
  );
});

test('-v logs requests on stderr and does not change stdout', async (t) => {
  const url = await answering(t, 200, { vms: [], count: 0 });
  const { stdout, stderr } = await vreg(['ls', '-v', '--json'], { url });
  assert.equal(stdout, '[]\n');
  assert.match(
    stderr,
    /^vreg: GET http:\/\/127\.0\.0\.1:\d+\/registry\/vms\?limit=5000&include=liveness 200 \d+ ms\n$/,
  );
});

test('a token that is not a valid header value is rejected before any request and not printed', async () => {
  for (const token of ['s3\ncret', 's3cret é', 'two words']) {
    const { code, stderr } = await vreg(['ls'], { url: 'http://127.0.0.1:9', env: { VERS_AUTH_TOKEN: token } });
    assert.equal(code, 5, stderr);
    assert.match(stderr, /the token \(from VERS_AUTH_TOKEN\) contains characters that an HTTP header cannot contain/);
    assert.doesNotMatch(stderr, /cret|words/);
  }
});

test('a URL with a password is rejected and not printed', async () => {
  const { code, stdout, stderr } = await vreg(['ls'], { url: 'http://bob:s3cret@127.0.0.1:9' });
  assert.deepEqual([code, stdout], [5, '']);
  assert.doesNotMatch(stderr, /s3cret|bob/);
  assert.match(stderr, /\nhint: put the token into a file/);
});

const SECRET = /PW/;
const WITH_PASSWORD = [
  'http://user:PW@host:3000',
  'user:PW@host:3000',
  'http://user:PW@h:99999',
  'http://user:PW@h ost',
  'https//user:PW@h',
  '//user:PW@h',
  'unix://user:PW@/x',
  'unix:user:PW@/x',
  'http://user:1/PW@h',
  'http://user:P?PW@h',
  'http://h/#user:PW@h',
];
const WITH_QUERY = [
  'http://h:1/?token=PW',
  'http://h:1/a?PW',
  'https://h#PW',
  'unix:/run/x.sock?token=PW',
  'ftp://h?PW',
  'h?PW',
];

for (const url of [...WITH_PASSWORD, ...WITH_QUERY]) {
  test(`${url.replace('PW', '(password)')} is rejected by every flag, variable and command, and not printed`, async (t) => {
    const home = tempDir(t);
    const ways: readonly [argv: string[], env?: NodeJS.ProcessEnv][] = [
      [['ls', '-u', url]],
      [['ls', '--json', `--url=${url}`]],
      [['ls'], { VERS_INFRA_URL: url }],
      [['doctor'], { VREG_URL: url }],
      [['config', 'list', '--show-origin'], { VREG_URL: url }],
      [['config', 'get', 'url'], { VREG_URL: url }],
      [['config', 'set', 'url', url]],
      [['context', 'add', 'x', '--url', url]],
      [['daemon', 'unit', 'agent', '--', '-u', url]],
      [['daemon', 'unit', 'agent', '--', '--url', url]],
    ];
    for (const [argv, env = {}] of ways) {
      const { code, stdout, stderr } = await vreg(argv, { home, env });
      assert.equal(code, 5, argv.join(' '));
      assert.match(stdout + stderr, WITH_PASSWORD.includes(url) ? /a user name or password/ : /a query or fragment/);
      assert.doesNotMatch(stdout + stderr, SECRET, argv.join(' '));
    }
  });
}

test('a URL with a password in the wrong place is rejected and not printed', async (t) => {
  const home = tempDir(t);
  const url = 'http://user:PW@h';
  for (const argv of [
    [url],
    ['ls', '-c', url],
    ['ls', '-o', url],
    ['ls', '--timeout', url],
    ['config', 'get', url],
    ['config', 'set', 'port', url],
    ['config', 'set', 'cors-origin', url],
    ['config', 'set', 'max-body', url],
    ['context', 'add', url, '--url', 'http://h'],
    ['context', 'use', url],
    ['api', 'GET', url],
    ['daemon', 'unit', 'agent', '--', url],
  ]) {
    const { code, stdout, stderr } = await vreg(argv, { home });
    assert.ok([3, 5].includes(code), argv.join(' '));
    assert.doesNotMatch(stdout + stderr, SECRET, argv.join(' '));
  }
});

test('a token in the wrong place is not printed', async (t) => {
  const { url } = await serveApp(t);
  const token = `vreg_PW${'a'.repeat(41)}`;
  for (const [argv, env = {}] of [
    [['ls'], { VREG_TOKEN_FILE: token }],
    [['ls', '--json'], { VREG_TOKEN_FILE: token }],
    [['doctor'], { VREG_TOKEN_FILE: token }],
    [['token', 'revoke', token]],
    [['token', 'revoke', token, 'b', '-y', '--json']],
    [['get', token, '-v']],
    [['ls', '--role', token]],
    [[token]],
  ] as [string[], NodeJS.ProcessEnv?][]) {
    const { code, stdout, stderr } = await vreg(argv, { url, env, answers: ['y'], errTty: true });
    assert.notEqual(code, 0, argv.join(' '));
    assert.match(stdout + stderr, /vreg_\*\*\*/, argv.join(' '));
    assert.doesNotMatch(stdout + stderr, SECRET, argv.join(' '));
  }
});

test('an unknown option is named without its value', async () => {
  for (const value of ['PW', "it's\n'PW'", 'a=PW']) {
    const { code, stderr } = await vreg(['ls', `--token=${value}`]);
    assert.deepEqual([code, stderr.split('\n')[0]], [5, "vreg: unknown option '--token'"]);
    assert.doesNotMatch(stderr, SECRET);
  }
  for (const argv of [
    'ls --token PW',
    '--token PW ls',
    '--auth-token=PW ls',
    'context add a --token PW',
    'config set token PW',
  ]) {
    const { code, stdout, stderr } = await vreg(argv.split(' '));
    assert.deepEqual([code, stdout], [5, ''], argv);
    assert.match(stderr, /\nhint: put the token into a file and use --token-file\n$/, argv);
    assert.doesNotMatch(stderr, SECRET);
  }
  assert.match((await vreg(['ls', '--ulr'])).stderr, /^vreg: unknown option '--ulr'; did you mean --url\?\n/);
  assert.match(
    (await vreg(['daemon', 'unit', 'agent', '--', '--token=PW'])).stderr,
    /^vreg: "--token" is not a flag of/,
  );
});

test('URLs with a password in the config file are printed with the password masked', async (t) => {
  const home = tempDir(t);
  mkdirSync(join(home, '.config/vreg'), { recursive: true });
  const contexts = { a: { url: 'http://user:PW@h:1' }, b: { url: 'http://h:2/?token=PW' } };
  writeFileSync(join(home, '.config/vreg/config.json'), JSON.stringify({ url: 'user:PW@h', context: 'a', contexts }));
  const run = (argv: string, env: NodeJS.ProcessEnv = {}) =>
    vreg(argv.split(' '), { home, env: { VERS_INFRA_URL: '', ...env } });
  for (const argv of [
    'context ls',
    'context ls -o json',
    'context ls -o wide',
    'context show a -o yaml',
    'ls',
    'ls -c b',
  ]) {
    const { stdout, stderr } = await run(argv);
    assert.doesNotMatch(stdout + stderr, SECRET, argv);
  }
  assert.equal((await run('context show a -o jsonpath={.url}')).stdout, 'http://***@h:1\n');
  assert.equal((await run('context show b -o jsonpath={.url}')).stdout, 'http://h:2/?***\n');
  const { code, stderr } = await run('config set url http://ok', { VERS_INFRA_URL: 'http://user:PW@h' });
  assert.deepEqual([code, stderr], [0, 'vreg: url was saved, but VERS_INFRA_URL overrides it with http://***@h\n']);
});

const ONE_VM = [aVm({ id: 'a', name: 'alpha', address: '10.0.0.1' })];

for (const argv of [
  'ls',
  'get a',
  'discover worker',
  'history a',
  'heartbeat a',
  'prune --older-than 1h -n',
  'status',
]) {
  test(`${argv} --no-headers prints no column titles`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, ONE_VM);
    const words = argv.split(' ');
    // The uptime differs between runs.
    const settled = async (line: string[]) => (await vreg(line, { url })).stdout.replace(/up (\d+[a-z])+/, 'up');
    const [plain, bare] = [await settled(words), await settled([...words, '--no-headers'])];
    const titles = plain.split('\n').filter((line) => /^[A-Z]+(\t|$)/.test(line));
    assert.equal(
      bare,
      plain
        .split('\n')
        .filter((line) => !titles.includes(line) || line === '')
        .join('\n'),
    );
  });
}

test('a timeout in days or in plain seconds is a valid limit for a request', async (t) => {
  const { url } = await serveApp(t);
  for (const timeout of ['30d', '3650d', '5', '2.5'])
    assert.deepEqual(await vreg(['ls', '--timeout', timeout, '-q'], { url }), { code: 0, stdout: '', stderr: '' });
});
