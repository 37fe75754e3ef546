import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { NewToken, TokenInfo } from '../../src/protocol/token.ts';
import { serveApp } from '../helpers/app.ts';
import { type Told, type VregOptions, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

const ROOT = 's3cret';

/** A registry, and what `vreg` says to it with a token; without one of its own, with the root's. */
async function guarded(t: TestContext) {
  const { url, registry } = await serveApp(t, { token: ROOT });
  const say = (argv: readonly string[], { token = ROOT, ...more }: VregOptions & { token?: string } = {}) =>
    vreg(argv, { url, env: { VREG_TOKEN: token }, ...more });
  return { url, registry, say };
}

test('create prints the token alone, says that it is shown once, and ls does not show it', async (t) => {
  const { say } = await guarded(t);
  const made = await say(['token', 'create', 'dash', '--scope', 'read', '--expires', '30d']);
  assert.match(made.stdout, /^vreg_[\w-]{43}\n$/);
  assert.deepEqual([made.code, made.stderr], [0, 'vreg: the token "dash" will not be shown again\n']);
  const listed = await say(['token', 'ls', '-o', 'wide']);
  assert.match(
    listed.stdout,
    /^NAME\tSCOPE\tFOR\tCREATED\tBY\tEXPIRES\tLAST USED\tFROM\ndash\tread\t-\t2026-01-01T00:00:00\.000Z\tVERS_AUTH_TOKEN\t2026-01-31T00:00:00\.000Z\t-\t-\n$/,
  );
  const [info] = JSON.parse((await say(['token', 'ls', '--json'])).stdout) as TokenInfo[];
  assert.deepEqual(Object.keys(info!).sort(), ['createdAt', 'createdBy', 'expiresAt', 'name', 'scope']);
});

test('create --json has all of the token, once', async (t) => {
  const { say } = await guarded(t);
  const { stdout } = await say(['token', 'create', 'w', '--scope', 'heartbeat', '--role', 'worker', '--json']);
  const made = JSON.parse(stdout) as NewToken;
  assert.deepEqual([made.name, made.scope, made.role, made.token.slice(0, 5)], ['w', 'heartbeat', 'worker', 'vreg_']);
});

test('create --to writes a file that --token-file takes, and makes no token where there is one already', async (t) => {
  const { say } = await guarded(t);
  const file = join(tempDir(t), 'token');
  const made = await say(['token', 'create', 'w', '--scope', 'write', '--vm', 'w-1', '--to', file]);
  assert.deepEqual([made.code, made.stdout], [0, `${file}\n`]);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const self = await say(['token', 'whoami', '--token-file', file, '-o', 'json']);
  assert.deepEqual(JSON.parse(self.stdout), { name: 'w', scope: 'write', vm: 'w-1' });
  const again = await say(['token', 'create', 'x', '--scope', 'read', '--to', file]);
  assert.deepEqual([again.code, readFileSync(file, 'utf8').slice(0, 5)], [4, 'vreg_']);
  assert.equal((await say(['token', 'ls', '-q'])).stdout, 'w\n');
  const nowhere = await say(['token', 'create', 'x', '--scope', 'read', '--to', join(file, 'below')]);
  assert.deepEqual([nowhere.code, /ENOTDIR/.test(nowhere.stderr)], [5, true]);
  const refused = join(tempDir(t), 'refused');
  assert.equal((await say(['token', 'create', 'w', '--scope', 'read', '--to', refused])).code, 4);
  assert.equal(existsSync(refused), false);
});

for (const [argv, saying] of [
  [['x'], /--scope is required\nhint: one of: read, heartbeat/],
  [['x', '--scope', 'king'], /invalid --scope "king"/],
  [['a b', '--scope', 'read'], /name must be letters/],
  [['x', '--scope', 'write', '--vm', 'a', '--role', 'infra'], /exclude each other/],
  [['x', '--scope', 'admin', '--vm', 'a'], /not possible with the scope admin/],
  [['x', '--scope', 'read', '--expires', '0d'], /invalid --expires "0d"/],
  [['x', '--scope', 'read', '--expires', ''], /invalid --expires ""/],
  [['x', '--scope', 'read', '--vm', ''], /vm/],
  [['x', '--scope', 'read', '--expires', '9999d'], /at most 3650 days/],
  [['x', '--scope', 'read', '--role', 'king'], /invalid --role "king"/],
] as const) {
  test(`token create ${argv.join(' ')} is bad usage`, async (t) => {
    const { say } = await guarded(t);
    const { code, stdout, stderr } = await say(['token', 'create', ...argv]);
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, saying);
  });
}

test('revoke asks first, takes what is named at once, and names what was not there', async (t) => {
  const { say } = await guarded(t);
  const create = async (name: string) => (await say(['token', 'create', name, '--scope', 'read'])).stdout.trim();
  const [token] = [await create('a'), await create('b')];
  const no: Told = await say(['token', 'revoke', 'a'], { answers: ['n'] });
  assert.equal(no.code, 7);
  assert.equal((await say(['ls'], { token })).code, 0);
  const { code, stdout, stderr } = await say(['token', 'revoke', 'a', 'nope', '--yes', '-o', 'name']);
  assert.deepEqual([code, stdout], [3, 'a\n']);
  assert.match(stderr, /no token "nope"/);
  const refused = await say(['ls'], { token });
  assert.deepEqual([refused.code, /invalid token/.test(refused.stderr)], [2, true]);
  assert.equal((await say(['token', 'revoke', '--yes'])).code, 5);
  assert.equal((await say(['token', 'ls', '-q'])).stdout, 'b\n');
});

test('revoke --enrolled-by takes the tokens of all VMs that an image let in, and says whose', async (t) => {
  const { say } = await guarded(t);
  const image = (await say(['token', 'create', 'image', '--scope', 'enrol'])).stdout.trim();
  for (const id of ['w-1', 'w-2']) {
    const { stderr } = await say(['register', id, '--name', id, '--address', 'a'], { token: image, errTty: true });
    assert.match(stderr, new RegExp(`^vreg: ${id} received its own token, which will not be shown again: vreg_`));
  }
  assert.equal((await say(['token', 'ls', '--enrolled-by', 'image', '-q'])).stdout, 'image/w-1\nimage/w-2\n');
  const { code, stdout } = await say(['token', 'revoke', 'image', '--enrolled-by', 'image', '--yes', '-q']);
  assert.deepEqual([code, stdout], [0, 'image\nimage/w-1\nimage/w-2\n']);
});

test('register with an enrol token has the new token in JSON, and not on stderr', async (t) => {
  const { say } = await guarded(t);
  const image = (await say(['token', 'create', 'image', '--scope', 'enrol'])).stdout.trim();
  const { stdout, stderr } = await say(['register', 'w', '--name', 'w', '--json'], { token: image });
  const { token } = JSON.parse(stdout) as { token: string };
  assert.equal(stderr, '');
  assert.match(
    (await say(['token', 'whoami'], { token })).stdout,
    /^NAME\tSCOPE\tFOR\tEXPIRES\nimage\/w\twrite\tVM w, role worker\t-\n$/,
  );
});

test('what a token may not do ends with 2, and says which scope would do', async (t) => {
  const { say, registry } = await guarded(t);
  await registry.register(aVm({ id: 'a' }));
  const token = (await say(['token', 'create', 'dash', '--scope', 'read'])).stdout.trim();
  for (const argv of [
    ['rm', 'a', '--yes'],
    ['pause', 'a'],
    ['heartbeat', 'a'],
    ['register', 'b', '--name', 'b'],
    ['conflicts', '--clear'],
    ['token', 'ls'],
    ['backup', join(tempDir(t), 'copy')],
  ]) {
    const { code, stdout, stderr } = await say(argv, { token });
    assert.deepEqual([code, stdout], [2, ''], argv.join(' '));
    assert.match(
      stderr,
      /token "dash" has the scope read; this needs \w+\nhint: create one with that scope/,
      argv.join(' '),
    );
  }
  assert.equal((await say(['ls', '-q'], { token })).stdout, 'a\n');
});

test('a token file that others can read is refused before it is used', async (t) => {
  const { say } = await guarded(t);
  const file = join(tempDir(t), 'token');
  writeFileSync(file, ROOT, { mode: 0o644 });
  const { code, stderr } = await say(['token', 'whoami', '--token-file', file]);
  assert.equal(code, 5);
  assert.match(stderr, /can be read by others \(mode 0644\)\nhint: chmod 600/);
});

test('the original registry has no tokens, and token says so', async (t) => {
  const { url } = await startPlainServer(t);
  for (const argv of [['ls'], ['whoami'], ['create', 'a', '--scope', 'read'], ['revoke', 'a', '--yes']]) {
    const { code, stderr } = await vreg(['token', ...argv], { url });
    assert.equal(code, 1);
    assert.match(stderr, /is not a vreg daemon: it has no tokens/);
  }
});
