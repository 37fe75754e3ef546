import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { writeTokenFile } from '../../daemon/agent/token-file.ts';
import type { NewToken, TokenInfo } from '../../src/protocol/token.ts';
import { serveApp } from '../helpers/app.ts';
import { type Result, type VregOptions, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

const ROOT = 's3cret';

/** A registry that requires a token, and a function that runs `vreg` with one (default: the root token). */
async function guarded(t: TestContext) {
  const { url, registry } = await serveApp(t, { token: ROOT });
  const run = (argv: readonly string[], { token = ROOT, ...more }: VregOptions & { token?: string } = {}) =>
    vreg(argv, { url, env: { VREG_TOKEN: token }, ...more });
  return { url, registry, run };
}

test('create prints the token once, and ls does not print it', async (t) => {
  const { run } = await guarded(t);
  const made = await run(['token', 'create', 'dash', '--scope', 'read', '--expires', '30d']);
  assert.match(made.stdout, /^vreg_[\w-]{43}\n$/);
  assert.deepEqual([made.code, made.stderr], [0, 'vreg: the token "dash" will not be shown again\n']);
  const listed = await run(['token', 'ls', '-o', 'wide']);
  assert.match(
    listed.stdout,
    /^NAME\tSCOPE\tFOR\tCREATED\tBY\tEXPIRES\tLAST USED\tFROM\ndash\tread\t-\t2026-01-01T00:00:00\.000Z\tVERS_AUTH_TOKEN\t2026-01-31T00:00:00\.000Z\t-\t-\n$/,
  );
  const [info] = JSON.parse((await run(['token', 'ls', '--json'])).stdout) as TokenInfo[];
  assert.deepEqual(Object.keys(info!).sort(), ['createdAt', 'createdBy', 'expiresAt', 'name', 'scope']);
});

test('create --json prints the token and its fields', async (t) => {
  const { run } = await guarded(t);
  const { stdout } = await run(['token', 'create', 'w', '--scope', 'heartbeat', '--role', 'worker', '--json']);
  const made = JSON.parse(stdout) as NewToken;
  assert.deepEqual([made.name, made.scope, made.role, made.token.slice(0, 5)], ['w', 'heartbeat', 'worker', 'vreg_']);
});

test('create --vm --role restricts a token to one VM in one role', async (t) => {
  const { run } = await guarded(t);
  const { code } = await run(['token', 'create', 'i', '--scope', 'write', '--vm', 'i-1', '--role', 'infra']);
  assert.equal(code, 0);
  assert.match((await run(['token', 'ls'])).stdout, /^i\twrite\tVM i-1, role infra\t/m);
});

test('create --to writes a file for --token-file, and creates no token if the file exists', async (t) => {
  const { run } = await guarded(t);
  const file = join(tempDir(t), 'token');
  const made = await run(['token', 'create', 'w', '--scope', 'write', '--vm', 'w-1', '--to', file]);
  assert.deepEqual([made.code, made.stdout], [0, `${file}\n`]);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const self = await run(['whoami', '--token-file', file, '-o', 'json']);
  assert.deepEqual((JSON.parse(self.stdout) as { token: object }).token, { name: 'w', scope: 'write', vm: 'w-1' });
  const again = await run(['token', 'create', 'x', '--scope', 'read', '--to', file]);
  assert.deepEqual([again.code, readFileSync(file, 'utf8').slice(0, 5)], [4, 'vreg_']);
  assert.equal((await run(['token', 'ls', '-q'])).stdout, 'w\n');
  const nowhere = await run(['token', 'create', 'x', '--scope', 'read', '--to', join(file, 'below')]);
  assert.deepEqual([nowhere.code, /ENOTDIR/.test(nowhere.stderr)], [5, true]);
  const refused = join(tempDir(t), 'refused');
  assert.equal((await run(['token', 'create', 'w', '--scope', 'read', '--to', refused])).code, 4);
  assert.equal(existsSync(refused), false);
});

for (const [argv, saying] of [
  [['x'], /--scope is required\nhint: one of: read, heartbeat/],
  [['x', '--scope', 'king'], /invalid --scope "king"/],
  [['a b', '--scope', 'read'], /invalid name: use 1 to 64 letters/],
  [['x', '--scope', 'write', '--vm', 'a', '--role', ''], /invalid --role ""/],
  [['x', '--scope', 'admin', '--vm', 'a'], /admin cannot be restricted to a vm/],
  [['x', '--scope', 'read', '--expires', '0d'], /invalid --expires "0d"/],
  [['x', '--scope', 'read', '--expires', ''], /invalid --expires ""/],
  [['x', '--scope', 'read', '--vm', ''], /vm/],
  [['x', '--scope', 'read', '--expires', '9999d'], /at most 3650 days/],
  [['x', '--scope', 'read', '--role', 'king'], /invalid --role "king"/],
] as const) {
  test(`token create ${argv.join(' ')} exits with 5`, async (t) => {
    const { run } = await guarded(t);
    const { code, stdout, stderr } = await run(['token', 'create', ...argv]);
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, saying);
  });
}

test('revoke asks for confirmation, takes effect immediately and reports unknown names', async (t) => {
  const { run } = await guarded(t);
  const create = async (name: string) => (await run(['token', 'create', name, '--scope', 'read'])).stdout.trim();
  const [token] = [await create('a'), await create('b')];
  const no: Result = await run(['token', 'revoke', 'a'], { answers: ['n'] });
  assert.equal(no.code, 7);
  assert.equal((await run(['ls'], { token })).code, 0);
  const { code, stdout, stderr } = await run(['token', 'revoke', 'a', 'nope', '--yes', '-o', 'name']);
  assert.deepEqual([code, stdout], [3, 'a\n']);
  assert.match(stderr, /no token "nope"/);
  const refused = await run(['ls'], { token });
  assert.deepEqual([refused.code, /invalid token/.test(refused.stderr)], [2, true]);
  assert.equal((await run(['token', 'revoke', '--yes'])).code, 5);
  assert.equal((await run(['token', 'ls', '-q'])).stdout, 'b\n');
});

test('revoke --enrolled-by revokes the tokens of all VMs that enrolled with a token', async (t) => {
  const { run } = await guarded(t);
  const image = (await run(['token', 'create', 'image', '--scope', 'enrol'])).stdout.trim();
  for (const id of ['w-1', 'w-2']) {
    const { stderr } = await run(['register', id, '--name', id, '--address', 'a'], { token: image, errTty: true });
    assert.match(stderr, new RegExp(`^vreg: ${id} received its own token, which will not be shown again: vreg_`));
  }
  assert.equal((await run(['token', 'ls', '--enrolled-by', 'image', '-q'])).stdout, 'image/w-1\nimage/w-2\n');
  const { code, stdout } = await run(['token', 'revoke', 'image', '--enrolled-by', 'image', '--yes', '-q']);
  assert.deepEqual([code, stdout], [0, 'image\nimage/w-1\nimage/w-2\n']);
});

test('register with an enrol token prints the new token in JSON and not on stderr', async (t) => {
  const { run } = await guarded(t);
  const image = (await run(['token', 'create', 'image', '--scope', 'enrol'])).stdout.trim();
  const { stdout, stderr } = await run(['register', 'w', '--name', 'w', '--json'], { token: image });
  const { token } = JSON.parse(stdout) as { token: string };
  assert.equal(stderr, '');
  assert.match((await run(['whoami'], { token })).stdout, /^Token\timage\/w: scope write, VM w, role worker$/m);
});

test('a refused enrol token leads to the file with the token that the VM has received', async (t) => {
  const { run } = await guarded(t);
  const home = tempDir(t);
  const image = (await run(['token', 'create', 'image', '--scope', 'enrol'])).stdout.trim();
  const { stdout } = await run(['register', 'w', '--name', 'w', '--json'], { token: image });
  const { token } = JSON.parse(stdout) as { token: string };
  const list = () => run(['ls'], { token: image, home });
  const before = await list();
  assert.equal(before.code, 2);
  assert.match(before.stderr, /\nhint: an enrol token .* that the VM received in the response\n$/);
  const folder = join(home, '.local/state/vreg');
  mkdirSync(folder, { recursive: true });
  writeTokenFile(folder, token, { info: () => {}, warn: (_fields, message) => assert.fail(message) });
  const { code, stderr } = await list();
  const [, flag, file] = /: (--token-file) (\S+)\n$/.exec(stderr) ?? [];
  assert.deepEqual([code, flag, file], [2, '--token-file', join(folder, 'token')]);
  assert.equal((await run(['ls', '-q', flag!, file!], { token: image, home })).stdout, 'w\n');
});

test('a command without permission exits with 2 and names the required scope', async (t) => {
  const { run, registry } = await guarded(t);
  await registry.register(aVm({ id: 'a' }));
  const token = (await run(['token', 'create', 'dash', '--scope', 'read'])).stdout.trim();
  for (const argv of [
    ['rm', 'a', '--yes'],
    ['pause', 'a'],
    ['heartbeat', 'a'],
    ['register', 'b', '--name', 'b'],
    ['conflicts', '--clear'],
    ['token', 'ls'],
    ['backup', join(tempDir(t), 'copy')],
  ]) {
    const { code, stdout, stderr } = await run(argv, { token });
    assert.deepEqual([code, stdout], [2, ''], argv.join(' '));
    assert.match(
      stderr,
      /token "dash" has the scope read; this requires \w+\nhint: create one with that scope/,
      argv.join(' '),
    );
  }
  assert.equal((await run(['ls', '-q'], { token })).stdout, 'a\n');
});

test('a token file that others can read is rejected before any request', async (t) => {
  const { run } = await guarded(t);
  const file = join(tempDir(t), 'token');
  writeFileSync(file, ROOT);
  chmodSync(file, 0o644);
  const { code, stderr } = await run(['whoami', '--token-file', file]);
  assert.equal(code, 5);
  assert.match(stderr, /can be read by other users \(mode 0644, from flag --token-file\)\nhint: chmod 600/);
});

test('token exits with 1 on the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  for (const argv of [['ls'], ['create', 'a', '--scope', 'read'], ['revoke', 'a', '--yes']]) {
    const { code, stderr } = await vreg(['token', ...argv], { url });
    assert.equal(code, 1);
    assert.match(stderr, /is not a vreg daemon: it does not support tokens/);
  }
});
