/** The notifications that systemd receives from the daemon and the agent. */
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { restart, startAgent } from '../helpers/agent/agent.ts';
import { notifySocket } from '../helpers/agent/notify-socket.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const needs = unless('python3', 'systemd-notify');
/** Three pings per interval: one every 100 ms. */
const WATCHDOG_USEC = '300000';

test('the daemon sends READY when it serves, watchdog pings, and STOPPING when it drains', needs, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const daemon = await startDaemon(t, { env: { NOTIFY_SOCKET: path, WATCHDOG_USEC } });
  assert.deepEqual(await says('READY=1'), ['READY=1', 'STATUS=0 VMs']);
  await says('WATCHDOG=1');
  const before = heard().length;
  await says('WATCHDOG=1', before);
  assert.deepEqual(await daemon.end(), { code: 0, signal: null });
  const all = heard();
  assert.deepEqual(
    all.find(([first]) => first === 'STOPPING=1'),
    ['STOPPING=1', 'STATUS=stopping'],
  );
  assert.equal(all.filter((lines) => lines.includes('READY=1')).length, 1);
});

test('SIGHUP makes the daemon send RELOADING, then READY with the current status', needs, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const daemon = await startDaemon(t, { env: { NOTIFY_SOCKET: path } });
  await says('READY=1');
  await daemon.vreg(['register', 'vm-1']);
  const before = heard().length;
  daemon.child.kill('SIGHUP');
  assert.match((await says('RELOADING=1', before)).join(), /^RELOADING=1,MONOTONIC_USEC=\d+$/);
  assert.deepEqual(await says('READY=1', before), ['READY=1', 'STATUS=1 VM']);
  assert.equal((await daemon.vreg(['health'])).code, 0);
});

test('the agent sends READY after its first request, RELOADING on SIGHUP, and STOPPING', needs, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url, [], { env: { NOTIFY_SOCKET: path, WATCHDOG_USEC } });
  assert.deepEqual(await says('READY=1'), ['READY=1', `STATUS=registered with ${daemon.url}`]);
  await says('WATCHDOG=1');
  const before = heard().length;
  agent.child.kill('SIGHUP');
  await says('RELOADING=1', before);
  await says('READY=1', before);
  const { code } = await agent.end();
  assert.equal(code, 0);
  await says('STOPPING=1');
});

test('an agent without a registry sends READY with the reason, and watchdog pings', needs, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const daemon = await startDaemon(t);
  await daemon.end();
  startAgent(t, daemon.url, [], { env: { NOTIFY_SOCKET: path, WATCHDOG_USEC } });
  assert.match((await says('READY=1')).join(), /^READY=1,STATUS=.*cannot reach the registry/);
  const before = heard().length;
  await says('WATCHDOG=1', before);
  await restart(t, daemon);
  await says(/^STATUS=last heartbeat 20\d\d-/, before);
});

test('a refused agent exits with 2, which its unit does not restart, and never sends READY', needs, async (t) => {
  const { path, heard } = await notifySocket(t);
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 'right' } });
  const agent = startAgent(t, daemon.url, [], { env: { NOTIFY_SOCKET: path, VERS_AUTH_TOKEN: 'wrong' } });
  const code = await new Promise((resolve) => agent.child.once('close', resolve));
  assert.equal(code, 2, agent.said());
  assert.deepEqual(heard(), []);
});

test('the watchdog of another process is not pinged', needs, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const daemon = await startDaemon(t, { env: { NOTIFY_SOCKET: path, WATCHDOG_USEC: '30000', WATCHDOG_PID: '1' } });
  await says('READY=1');
  daemon.child.kill('SIGHUP');
  await says('RELOADING=1');
  await daemon.end();
  assert.ok(heard().every((lines) => !lines.includes('WATCHDOG=1')));
});

test('without systemd-notify the daemon warns once and serves', async (t) => {
  const empty = tempDir(t);
  const daemon = await startDaemon(t, {
    env: { PATH: empty, NOTIFY_SOCKET: join(empty, 'none'), WATCHDOG_USEC: '3000' },
  });
  await until('the warning', () => daemon.said().includes('systemd-notify is not installed'));
  assert.equal((await daemon.vreg(['health'])).code, 0);
  await daemon.end();
  assert.equal(daemon.said().split('systemd-notify is not installed').length, 2);
});

test('slow watchdog pings do not delay requests', unless('strace'), async (t) => {
  const empty = tempDir(t);
  const daemon = await startDaemon(t, {
    // Each new process takes 20 ms, as on a slow machine.
    through: ['strace', '-D', '-f', '-o', '/dev/null', '-e', 'inject=?fork,?vfork,clone,?clone3:delay_exit=20000'],
    env: { NOTIFY_SOCKET: join(empty, 'none'), WATCHDOG_USEC: '3000' },
  });
  await until('the warning', () => daemon.said().includes('cannot notify systemd'));
  for (let n = 0; n < 20; n++) assert.equal((await call(daemon.url, 'GET', '/health')).status, 200);
  assert.deepEqual(await daemon.end(), { code: 0, signal: null });
});

test('SIGHUP reloads the token of the daemon, and an empty token file changes nothing', async (t) => {
  const credentials = tempDir(t);
  const write = (token: string) => writeFileSync(join(credentials, 'token'), token, { mode: 0o600 });
  write('first');
  const daemon = await startDaemon(t, { env: { CREDENTIALS_DIRECTORY: credentials } });
  const code = async (token: string) => (await daemon.vreg(['ls'], { env: { VERS_AUTH_TOKEN: token } })).code;
  assert.deepEqual([await code('first'), await code('second')], [0, 2]);
  write('second');
  daemon.child.kill('SIGHUP');
  await until('the reload', () => daemon.said().includes('reloaded the token'));
  assert.deepEqual([await code('first'), await code('second')], [2, 0]);
  write('');
  daemon.child.kill('SIGHUP');
  await until('the refusal', () => daemon.said().includes('cannot reload the token'));
  assert.equal(await code('second'), 0);
});

test('the daemon and the agent read the token from a systemd credential', async (t) => {
  const dir = join(tempDir(t), 'credentials');
  mkdirSync(dir, { mode: 0o700 });
  writeFileSync(join(dir, 'token'), 'handed-over\n');
  // The mode that systemd gives credentials: the folder protects them.
  chmodSync(join(dir, 'token'), 0o440);
  const env = { CREDENTIALS_DIRECTORY: dir };
  const daemon = await startDaemon(t, { env });
  const ask = (token: NodeJS.ProcessEnv) => daemon.vreg(['ls'], { env: { CREDENTIALS_DIRECTORY: '', ...token } });
  assert.equal((await ask({})).code, 2);
  assert.equal((await ask({ VERS_AUTH_TOKEN: 'handed-over' })).code, 0);
  startAgent(t, daemon.url, [], { env });
  await until('the entry', async () => (await daemon.vreg(['get', 'vm-1'])).code === 0);
});
