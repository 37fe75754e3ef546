/** Agents of one image, each of which comes in with the image's token and goes on with its own. */
import assert from 'node:assert/strict';
import { cpSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { find, heardAfter, heardTwice, startAgent } from '../helpers/agent/agent.ts';
import { serveApp } from '../helpers/app.ts';
import { RealClock } from '../helpers/clock.ts';
import { type Daemon, startDaemon, tempDir } from '../helpers/daemon.ts';
import { until } from '../helpers/until.ts';

async function withImage(t: TestContext): Promise<{ daemon: Daemon; image: string }> {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 's3cret' } });
  const { code, stdout } = await daemon.command(['token', 'create', 'image', '--scope', 'enrol', '--role', 'worker']);
  assert.equal(code, 0);
  return { daemon, image: stdout.trim() };
}

const stateOf = (home: string) => join(home, 'state/vreg');

test('an agent enrols, uses its own token, also after a restart, and writes it to a file for scripts', async (t) => {
  const { daemon, image } = await withImage(t);
  const home = tempDir(t);
  const env = { VERS_AUTH_TOKEN: image };
  const first = startAgent(t, daemon.url, [], { home, env });
  const { lastSeen } = await until('the enrolment', () => find(daemon));
  await heardAfter(daemon, lastSeen);
  const file = join(stateOf(home), 'token');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const self = await daemon.command(['whoami', '--token-file', file, '-o', 'json']);
  assert.deepEqual((JSON.parse(self.stdout) as { token: object }).token, {
    name: 'image/vm-1',
    scope: 'write',
    vm: 'vm-1',
    role: 'worker',
  });
  assert.equal((await daemon.command(['addr', 'worker', '--token-file', file])).stdout, 'vm-1.vm.vers.sh\n');
  assert.deepEqual(await first.end().then(({ code }) => code), 0);
  assert.equal((await find(daemon))?.status, 'stopped', 'its last word was taken');
  rmSync(file);
  startAgent(t, daemon.url, [], { home, env });
  await until('it to run again', async () => (await find(daemon))?.status === 'running');
  const name = ['whoami', '--token-file', file, '-o', 'jsonpath=$.token.name'];
  assert.equal((await daemon.command(name)).stdout, 'image/vm-1\n');
});

test('an agent whose entry is removed enrols again', async (t) => {
  const { daemon, image } = await withImage(t);
  const agent = startAgent(t, daemon.url, [], { env: { VERS_AUTH_TOKEN: image } });
  const before = await until('the enrolment', () => find(daemon));
  await daemon.command(['rm', 'vm-1', '--yes']);
  await until('the entry', async () => ((await find(daemon))?.registeredAt ?? '') > before.registeredAt);
  await until('the reason', () => /refuses this VM's own token/.test(agent.said()));
});

test('an agent whose token is revoked cannot enrol again while its entry exists, and logs why', async (t) => {
  const { daemon, image } = await withImage(t);
  const agent = startAgent(t, daemon.url, [], { env: { VERS_AUTH_TOKEN: image } });
  await until('the enrolment', () => find(daemon));
  await daemon.command(['token', 'revoke', '--enrolled-by', 'image', '--yes']);
  await until('it to be told', () => /VM already registered/.test(agent.said()));
  const { lastSeen } = (await find(daemon))!;
  assert.equal(agent.child.exitCode, null);
  assert.equal((await find(daemon))!.lastSeen, lastSeen);
});

test('an agent whose token is revoked right after its registration logs why it cannot enrol again', async (t) => {
  const { url, authenticator, registry } = await serveApp(t, { clock: new RealClock(), token: 's3cret' });
  const { tokens } = authenticator;
  const image = await tokens.create({ name: 'image', scope: 'enrol', role: 'worker' }, 'test');
  const agent = startAgent(t, url, [], { env: { VERS_AUTH_TOKEN: image.token } });
  await until('the enrolment', () => registry.has('vm-1'));
  await tokens.revokeEnrolledBy('image', 'test');
  await until('the reason', () => /VM already registered/.test(agent.said()));
  const warnings = agent
    .said()
    .split('\n')
    .filter((line) => line.includes('retrying until it works'));
  await agent.end();
  assert.equal(new Set(warnings).size, warnings.length);
  assert.ok(warnings.length <= 2, warnings.join('\n'));
});

test('an agent whose token is revoked works again with another token for its VM', async (t) => {
  const { daemon, image } = await withImage(t);
  const home = tempDir(t);
  const first = startAgent(t, daemon.url, [], { home, env: { VERS_AUTH_TOKEN: image } });
  await until('the enrolment', () => find(daemon));
  await first.end();
  await daemon.command(['token', 'revoke', '--enrolled-by', 'image', '--yes']);
  const other = (await daemon.command(['token', 'create', 'vm-1', '--scope', 'write', '--vm', 'vm-1'])).stdout.trim();
  startAgent(t, daemon.url, [], { home, env: { VERS_AUTH_TOKEN: other } });
  await until('it to run again', async () => (await find(daemon))?.status === 'running');
});

test('a heartbeat with an enrol token enrols the VM, and the next one uses the token in the state dir', async (t) => {
  const { daemon, image } = await withImage(t);
  const state = join(tempDir(t), 'state');
  const beat = () =>
    daemon.command(['heartbeat', 'vm-1', '--register-if-missing', '--name', 'one', '--state-dir', state], {
      env: { VERS_AUTH_TOKEN: image },
    });
  for (let n = 0; n < 2; n++) {
    const { code, stderr } = await beat();
    assert.equal(code, 0, stderr);
  }
  assert.equal((await daemon.command(['token', 'ls', '--enrolled-by', 'image', '-q'])).stdout, 'image/vm-1\n');
});

test('a clone of an enrolled VM gets a new id and its own token', async (t) => {
  const { daemon, image } = await withImage(t);
  const home = tempDir(t);
  const env = { VERS_AUTH_TOKEN: image };
  const original = startAgent(t, daemon.url, ['--on-exit', 'keep'], { home, env });
  await until('the enrolment', () => find(daemon));
  await original.end();
  const copy = tempDir(t);
  cpSync(home, copy, { recursive: true });
  startAgent(t, daemon.url, [], { home, env });
  await heardTwice(daemon);
  startAgent(t, daemon.url, ['--on-clone', 'rebirth', '--id-command', 'echo vm-2'], { home: copy, env });
  const clone = await until('the clone', () => find(daemon, 'vm-2'));
  assert.equal(clone.parentId, 'vm-1');
  const { stdout } = await daemon.command(['token', 'ls', '--enrolled-by', 'image', '-q']);
  assert.equal(stdout, 'image/vm-1\nimage/vm-2\n');
});
