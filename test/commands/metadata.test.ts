import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { envNameOf, SETTING_KEYS } from '../../src/config/settings.ts';
import { EXIT_MEANING } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { aVm } from '../helpers/vm.ts';

test('version says the version, for people and for programs', async () => {
  assert.deepEqual(await vreg(['version']), { code: 0, stdout: 'vreg 0.0.0\n', stderr: '' });
  for (const flag of ['-V', '--version']) {
    assert.deepEqual(await vreg([flag]), { code: 0, stdout: 'vreg 0.0.0\n', stderr: '' });
  }
  assert.deepEqual(JSON.parse((await vreg(['version', '--json'])).stdout), {
    version: '0.0.0',
    node: process.versions.node,
  });
});

test('help is the same by every way to ask for it, and goes to stdout', async () => {
  const program = await vreg(['--help']);
  assert.deepEqual([program.code, program.stderr], [0, '']);
  assert.match(program.stdout, /^Usage: vreg COMMAND \[ARGS\] \[FLAGS\]$/m);
  for (const argv of [[], ['-h'], ['help'], ['--help', 'ls'], ['--url', 'http://a:1']]) {
    assert.deepEqual(await vreg(argv), program, argv.join(' '));
  }
  const ls = await vreg(['ls', '--help']);
  assert.match(ls.stdout, /^Usage: vreg ls \[FLAGS\]$/m);
  for (const argv of [
    ['ls', '-h'],
    ['help', 'ls'],
    ['help', 'list'],
    ['list', '--help'],
  ]) {
    assert.deepEqual(await vreg(argv), ls, argv.join(' '));
  }
  const set = await vreg(['config', 'set', '--help']);
  assert.match(set.stdout, /^Usage: vreg config set KEY VALUE \[FLAGS\]$/m);
  assert.deepEqual(await vreg(['help', 'config', 'set']), set);
  assert.match((await vreg(['config'])).stdout, /^Usage: vreg config COMMAND \[FLAGS\]$/m);
  assert.match((await vreg(['daemon', '--help'])).stdout, /^Usage: vreg daemon \[COMMAND\] \[FLAGS\]$/m);
});

test('help on what is not there is bad usage', async () => {
  const { code, stdout, stderr } = await vreg(['help', 'lss']);
  assert.deepEqual([code, stdout], [5, '']);
  assert.equal(stderr, 'vreg: no help for "lss"; did you mean "ls"?\nhint: list the commands: vreg help\n');
  assert.equal((await vreg(['help', 'ls', 'more'])).code, 5);
});

test('help lists every exit code and every variable', async () => {
  const codes = (await vreg(['help', 'exit-codes'])).stdout;
  for (const [code, meaning] of Object.entries(EXIT_MEANING))
    assert.match(codes, new RegExp(`^ +${code}  `, 'm'), meaning);
  const variables = (await vreg(['help', 'environment'])).stdout;
  for (const key of SETTING_KEYS) assert.ok(variables.includes(envNameOf(key)), key);
});

test('neither help nor completion scripts nor version open a socket', async (t) => {
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
  // The server does count.
  await vreg(['ls'], { url });
  assert.ok(connections > 0);
});

test('an unknown command or flag is bad usage, with what may be meant and where to look', async () => {
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
  const json = await vreg(['ls', '--rolle', 'infra', '--json']);
  assert.equal((JSON.parse(json.stderr) as { error: { code: string } }).error.code, 'USAGE');
});

test('completion prints the script of a shell, or writes those of all', async (t) => {
  const dir = tempDir(t);
  assert.deepEqual(await vreg(['completion', '--write', dir]), { code: 0, stdout: '', stderr: '' });
  assert.deepEqual(readdirSync(dir).sort(), ['_vreg', 'vreg.bash', 'vreg.fish']);
  for (const [shell, file] of [
    ['bash', 'vreg.bash'],
    ['zsh', '_vreg'],
    ['fish', 'vreg.fish'],
  ] as const) {
    const { code, stdout } = await vreg(['completion', shell]);
    assert.equal(code, 0);
    assert.equal(stdout, readFileSync(join(dir, file), 'utf8'));
  }
  assert.deepEqual(await vreg(['completion']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: no shell given\nhint: one of: bash, zsh, fish\n',
  });
  assert.equal((await vreg(['completion', 'tcsh'])).code, 5);
});

test('live values for completion are silent whatever goes wrong', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'x' }), aVm({ id: 'b', name: 'x' })]);
  assert.deepEqual(await vreg(['completion', '--values', 'ids'], { url }), { code: 0, stdout: 'b\na\n', stderr: '' });
  assert.deepEqual(await vreg(['completion', '--values', 'names'], { url }), { code: 0, stdout: 'x\n', stderr: '' });
  for (const env of [{}, { VREG_URL: 'nope' }, { VREG_OUTPUT: 'xml' }, { VREG_TOKEN_FILE: '/nonexistent' }]) {
    assert.deepEqual(await vreg(['completion', '--values', 'ids'], { env }), { code: 0, stdout: '', stderr: '' });
  }
});
