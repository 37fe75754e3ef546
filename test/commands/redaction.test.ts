/** URLs with a password in them, right or wrong, wherever somebody may write one: none is printed. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { maskName, maskRegistryUrl, maskUrlUsers, registryUrlFault } from '../../src/protocol/redact.ts';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';

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
  test(`${url.replace('PW', '(password)')} is refused wherever it is given, and not printed`, async (t) => {
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

test('a URL with a password that got to another place is refused, and not printed', async (t) => {
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

test('a token of a registry that got to another place is not printed', async (t) => {
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

test('an option that is not known is named without what stands behind it', async () => {
  for (const value of ['PW', "it's\n'PW'", 'a=PW']) {
    const { code, stderr } = await vreg(['ls', `--token=${value}`]);
    assert.deepEqual([code, stderr.split('\n')[0]], [5, "vreg: unknown option '--token'"]);
    assert.doesNotMatch(stderr, SECRET);
  }
  assert.match((await vreg(['ls', '--ulr'])).stderr, /^vreg: unknown option '--ulr'; did you mean --url\?\n/);
  assert.match((await vreg(['daemon', 'unit', 'agent', '--', '--token=PW'])).stderr, /^vreg: "--token" is no flag of/);
});

test('a file with a password in a URL is told about, and what is in it is shown without', async (t) => {
  const home = tempDir(t);
  mkdirSync(join(home, '.config/vreg'), { recursive: true });
  const contexts = { a: { url: 'http://user:PW@h:1' }, b: { url: 'http://h:2/?token=PW' } };
  writeFileSync(join(home, '.config/vreg/config.json'), JSON.stringify({ url: 'user:PW@h', context: 'a', contexts }));
  const told = (argv: string, env: NodeJS.ProcessEnv = {}) =>
    vreg(argv.split(' '), { home, env: { VERS_INFRA_URL: '', ...env } });
  for (const argv of [
    'context ls',
    'context ls -o json',
    'context ls -o wide',
    'context show a -o yaml',
    'ls',
    'ls -c b',
  ]) {
    const { stdout, stderr } = await told(argv);
    assert.doesNotMatch(stdout + stderr, SECRET, argv);
  }
  assert.equal((await told('context show a -o jsonpath={.url}')).stdout, 'http://***@h:1\n');
  assert.equal((await told('context show b -o jsonpath={.url}')).stdout, 'http://h:2/?***\n');
  const { code, stderr } = await told('config set url http://ok', { VERS_INFRA_URL: 'http://user:PW@h' });
  assert.deepEqual([code, stderr], [0, 'vreg: url was saved, but VERS_INFRA_URL overrides it with http://***@h\n']);
});

test('an @ that is no password stays what it is', () => {
  const socket = 'unix:///run/user@1000.service/vreg.sock';
  assert.deepEqual(
    [registryUrlFault(socket), maskRegistryUrl(socket), maskUrlUsers(socket)],
    [undefined, socket, socket],
  );
  assert.equal(maskName('prod@eu'), 'prod@eu');
  assert.equal(maskUrlUsers('see http://a:b@h and //c@d, mail x@y'), 'see http://***@h and //***@d, mail x@y');
  assert.equal(registryUrlFault('http://h:1/a%40b'), undefined);
});

test('a text of the greatest length is searched in no time', () => {
  const text = '//a'.repeat(300_000);
  const started = performance.now();
  assert.equal(maskUrlUsers(text), text);
  assert.ok(performance.now() - started < 5000);
});
