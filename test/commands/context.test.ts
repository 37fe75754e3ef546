import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { type Result, seed, vreg } from '../helpers/cli.ts';
import { cleanEnv, tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

interface Home {
  home: string;
  file: string;
  run(argv: string, env?: NodeJS.ProcessEnv): Promise<Result>;
  config(): Record<string, unknown>;
}

const CONTEXTS = { dev: { url: 'http://dev:1' }, prod: { url: 'https://prod:2' } };

function homeWith(t: TestContext, config?: object): Home {
  const home = tempDir(t);
  const file = join(home, '.config/vreg/config.json');
  if (config !== undefined) {
    mkdirSync(join(home, '.config/vreg'), { recursive: true });
    writeFileSync(file, JSON.stringify(config), { mode: 0o644 });
  }
  return {
    home,
    file,
    run: (argv, env = {}) => vreg(argv.split(' '), { home, env: { VERS_INFRA_URL: '', ...env } }),
    config: () => JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>,
  };
}

const QUIET = { code: 0, stdout: '', stderr: '' };

test('a context is added, switched to, shown and removed, and the file has mode 0600 after each step', async (t) => {
  const { run, config, file } = homeWith(t);
  assert.deepEqual(await run('context add prod --url http://prod:1'), QUIET);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(await run('context add dev --url http://dev:1 --use'), QUIET);
  assert.deepEqual(config(), {
    contexts: { prod: { url: 'http://prod:1' }, dev: { url: 'http://dev:1' } },
    context: 'dev',
  });
  assert.deepEqual(await run('context current'), { ...QUIET, stdout: 'dev\n' });
  assert.deepEqual(await run('context use prod'), QUIET);
  assert.deepEqual(await run('context ls'), {
    ...QUIET,
    stdout: 'CURRENT\tNAME\tURL\tTOKEN FILE\n*\tprod\thttp://prod:1\t-\n\tdev\thttp://dev:1\t-\n',
  });
  assert.equal((await run('context ls -q')).stdout, 'prod\ndev\n');
  assert.deepEqual(JSON.parse((await run('context show --json')).stdout), {
    name: 'prod',
    current: true,
    url: 'http://prod:1',
  });
  assert.equal((await run('context show dev -o jsonpath={.url}')).stdout, 'http://dev:1\n');
  assert.deepEqual(await run('context rm prod'), QUIET);
  assert.deepEqual(config(), { contexts: { dev: { url: 'http://dev:1' } } });
  assert.equal(statSync(file).mode & 0o777, 0o600);
});

test('context ls shows the URL on a terminal of 40 columns', async (t) => {
  const { run, home } = homeWith(t);
  await run('context add prod --url http://prod:1 --token-file /a/rather/long/path/of/a/token/file');
  const options = { home, tty: true, width: 40, env: { VERS_INFRA_URL: '', NO_COLOR: '1' } };
  const { stdout } = await vreg(['context', 'ls'], options);
  assert.match(stdout, /^CURRENT +NAME +URL +.*\n +prod +http:\/\/prod:1/);
});

test('writing a config file that others can read sets its mode to 0600', async (t) => {
  const { run, file } = homeWith(t, { contexts: CONTEXTS });
  chmodSync(file, 0o644);
  await run('context use dev');
  assert.equal(statSync(file).mode & 0o777, 0o600);
});

test('add with an existing name changes only the given fields', async (t) => {
  const { run, config, home } = homeWith(t, { contexts: CONTEXTS });
  assert.deepEqual(await run(`context add dev --token-file ${home}/token`), QUIET);
  assert.deepEqual(await run('context add dev --url http://other:1'), QUIET);
  assert.deepEqual(config().contexts, {
    ...CONTEXTS,
    dev: { url: 'http://other:1', 'token-file': `${home}/token` },
  });
});

const REFUSED: readonly [argv: string, code: number, message: RegExp][] = [
  ['add x', 5, /^vreg: --url is required\nhint: for example: --url http/],
  ['add x --url nope', 5, /^vreg: invalid url "nope".*\nhint: use http/],
  ['add a/b --url http://a:1', 5, /^vreg: invalid context name "a\/b"\nhint: use letters, digits/],
  ['use prdo', 3, /^vreg: unknown context "prdo"; did you mean "prod"\?\nhint: one of: dev, prod\n$/],
  ['rm nope', 3, /^vreg: unknown context "nope"\nhint: one of: dev, prod\n$/],
  ['show nope', 3, /^vreg: unknown context "nope"\nhint: one of: dev, prod\n$/],
  ['current', 3, /^vreg: no current context\nhint: switch to one: vreg context use NAME\n$/],
  ['show', 3, /^vreg: no current context\nhint: /],
  [
    'lst',
    5,
    /^vreg: unknown command: context lst; did you mean "ls"\?\nhint: list the commands: vreg context --help\n$/,
  ],
];

for (const [argv, code, message] of REFUSED) {
  test(`context ${argv} exits with ${code}`, async (t) => {
    const { run, config } = homeWith(t, { contexts: CONTEXTS });
    const { code: got, stdout, stderr } = await run(`context ${argv}`);
    assert.deepEqual([got, stdout], [code, ''], stderr);
    assert.match(stderr, message);
    assert.deepEqual(config(), { contexts: CONTEXTS });
  });
}

test('without contexts, the hint says how to add one', async (t) => {
  const { run } = homeWith(t);
  assert.match((await run('context use x')).stderr, /\nhint: add it: vreg context add NAME --url URL\n$/);
  assert.deepEqual(await run('context ls'), QUIET);
  assert.equal((await run('context ls --json')).stdout, '[]\n');
});

const PRECEDENCE: readonly [name: string, argv: string, env: NodeJS.ProcessEnv, url: string, origin: string][] = [
  ['the file', '', {}, 'http://dev:1', 'context dev'],
  ['VREG_CONTEXT over the file', '', { VREG_CONTEXT: 'prod' }, 'https://prod:2', 'context prod'],
  ['-c over VREG_CONTEXT', ' -c dev', { VREG_CONTEXT: 'prod' }, 'http://dev:1', 'context dev'],
  ['--context, too', ' --context prod', {}, 'https://prod:2', 'context prod'],
  ['VERS_INFRA_URL over the context in use', '', { VERS_INFRA_URL: 'http://v:3' }, 'http://v:3', 'VERS_INFRA_URL'],
  [
    'VREG_CONTEXT over it',
    '',
    { VREG_CONTEXT: 'prod', VERS_INFRA_URL: 'http://v:3' },
    'https://prod:2',
    'context prod',
  ],
  ['-c over every variable', ' -c prod', { VREG_URL: 'http://w:4' }, 'https://prod:2', 'context prod'],
  ['VREG_URL over both', '', { VREG_URL: 'http://w:4', VERS_INFRA_URL: 'http://v:3' }, 'http://w:4', 'VREG_URL'],
  ['--url over all', ' --url http://f:5 -c prod', { VREG_URL: 'http://w:4' }, 'http://f:5', 'flag --url'],
];

for (const [name, argv, env, url, origin] of PRECEDENCE) {
  test(`precedence: ${name}`, async (t) => {
    const { run } = homeWith(t, { context: 'dev', contexts: CONTEXTS, url: 'http://file:9' });
    const { stdout } = await run(`config get url --json${argv}`, env);
    assert.deepEqual(JSON.parse(stdout), { key: 'url', value: url, origin });
  });
}

test('without a current context, the url of the config file applies', async (t) => {
  const { run } = homeWith(t, { contexts: CONTEXTS, url: 'http://file:9' });
  assert.equal((await run('config get url')).stdout, 'http://file:9\n');
});

for (const [argv, env, origin] of [
  ['ls -c prdo', { VREG_CONTEXT: 'other' }, 'flag --context'],
  ['ls', { VREG_CONTEXT: 'prdo' }, 'VREG_CONTEXT'],
  ['context current', { VREG_CONTEXT: 'prdo' }, 'VREG_CONTEXT'],
] as const) {
  test(`an unknown context exits with 5 (vreg ${argv}, ${JSON.stringify(env)})`, async (t) => {
    const { run } = homeWith(t, { contexts: CONTEXTS });
    assert.deepEqual(await run(argv, env), {
      code: 5,
      stdout: '',
      stderr: `vreg: unknown context "prdo" (from ${origin}); did you mean "prod"?\nhint: list the contexts: vreg context ls\n`,
    });
  });
}

test('a config file whose current context is missing can be fixed with the commands in the hint', async (t) => {
  const { run } = homeWith(t, { context: 'gone', contexts: CONTEXTS });
  assert.equal((await run('ls')).code, 5);
  assert.equal((await run('context ls -q')).stdout, 'dev\nprod\n');
  assert.deepEqual(await run('context use dev'), QUIET);
  assert.equal((await run('config get url')).stdout, 'http://dev:1\n');
});

test('a context sets the token file and the CA file', async (t) => {
  const { url } = await startPlainServer(t, { token: 'secret' });
  const { run, home } = homeWith(t);
  const token = join(home, 'token');
  writeFileSync(token, 'secret\n', { mode: 0o600 });
  await run(`context add here --url ${url}`);
  assert.equal((await run('ls -c here')).code, 2);
  await run(`context add here --token-file ${token} --use`);
  assert.equal((await run('ls')).code, 0);
  await run(`context add here --ca-file ${home}/ca.pem`);
  const { code, stderr } = await run('ls');
  assert.equal(code, 5);
  assert.equal(
    stderr,
    `vreg: cannot read the CA file ${home}/ca.pem (ENOENT, from context here)\nhint: check its path and mode\n`,
  );
  assert.doesNotMatch(readFileSync(join(home, '.config/vreg/config.json'), 'utf8'), /secret/);
});

test('-c and VREG_CONTEXT select the registry', async (t) => {
  const [one, two] = [await startPlainServer(t), await startPlainServer(t)];
  await seed(one.url, [aVm({ id: 'a' })]);
  await seed(two.url, [aVm({ id: 'b' })]);
  const { run } = homeWith(t, { context: 'one', contexts: { one: { url: one.url }, two: { url: two.url } } });
  assert.equal((await run('ls -q')).stdout, 'a\n');
  assert.equal((await run('-c two ls -q')).stdout, 'b\n');
  assert.equal((await run('ls -q', { VREG_CONTEXT: 'two' })).stdout, 'b\n');
});

test('the token of a context is sent only to the URL of that context', async (t) => {
  const asked: (string | undefined)[] = [];
  const url = await stub(t, (request, response) => {
    asked.push(request.headers.authorization);
    json(response, 200, { vms: [], count: 0 });
  });
  const home = tempDir(t);
  const file = join(home, 'token');
  writeFileSync(file, 's3cret\n', { mode: 0o600 });
  mkdirSync(join(home, 'config/vreg'), { recursive: true });
  const contexts = { prod: { url, 'token-file': file } };
  writeFileSync(join(home, 'config/vreg/config.json'), JSON.stringify({ context: 'prod', contexts }));
  const env = { ...cleanEnv(home), VERS_INFRA_URL: '' };
  assert.equal((await vreg(['ls'], { url: '', env })).code, 0);
  assert.equal((await vreg(['ls', '--url', url], { url: '', env })).code, 0);
  assert.equal((await vreg(['ls'], { url, env: { ...env, VERS_INFRA_URL: url } })).code, 0);
  assert.deepEqual(asked, ['Bearer s3cret', undefined, undefined]);
});
