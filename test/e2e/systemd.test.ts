/** The units as systemd reads them, and what a service tells its manager. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { find, startLong } from '../helpers/agent.ts';
import { BIN, cleanEnv, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const KINDS = ['serve', 'agent', 'heartbeat-timer', 'wait-online'];
/** Tenths of the exposure that systemd-analyze finds: 2.0. */
const MOST_EXPOSED = '20';

interface Unit {
  name: string;
  text: string;
}

async function unitsOf(t: TestContext, kind: string, ...more: string[]): Promise<{ dir: string; units: Unit[] }> {
  const dir = tempDir(t);
  const argv = [BIN, 'daemon', 'unit', kind, ...(more.includes('--user') ? ['--user'] : []), '-o', 'json', '--'];
  const { stdout } = await run(process.execPath, [...argv, ...more.filter((word) => word !== '--user')], {
    env: cleanEnv(dir),
  });
  const units = JSON.parse(stdout) as Unit[];
  for (const { name, text } of units) writeFileSync(join(dir, name), text);
  return { dir, units };
}

for (const kind of KINDS) {
  for (const of of ['--system', '--user']) {
    test(`systemd has nothing to say against the unit ${kind} ${of}`, unless('systemd-analyze'), async (t) => {
      const { dir, units } = await unitsOf(t, kind, ...(of === '--user' ? [of] : []));
      for (const { name } of units) {
        const words = [of, 'verify', '--man=no', '--recursive-errors=no', join(dir, name)];
        const ran = await run('systemd-analyze', words, { env: cleanEnv(dir, { XDG_RUNTIME_DIR: dir }) });
        // A key that is misspelt is a warning alone: the exit code says nothing of it.
        assert.deepEqual(ran, { code: 0, signal: null, stdout: '', stderr: '' });
      }
    });
  }

  test(`the unit ${kind} is hardened: an exposure of 2.0 at most`, unless('systemd-analyze'), async (t) => {
    const { dir, units } = await unitsOf(t, kind);
    for (const { name } of units.filter((unit) => unit.name.endsWith('.service'))) {
      const words = ['security', '--offline=yes', '--no-pager', `--threshold=${MOST_EXPOSED}`, join(dir, name)];
      const { code, stdout } = await run('systemd-analyze', words, { env: cleanEnv(dir) });
      assert.equal(code, 0, stdout.trim().split('\n').at(-1));
    }
  });
}

test('no unit restarts what a restart does not mend: a bad config, a bad token, a clone', async (t) => {
  const [serve] = (await unitsOf(t, 'serve')).units;
  const [agent] = (await unitsOf(t, 'agent')).units;
  assert.match(serve!.text, /^Restart=on-failure\n[^[]*^RestartPreventExitStatus=2 5$/m);
  assert.match(agent!.text, /^Restart=always\n[^[]*^RestartPreventExitStatus=2 5 9$/m);
});

test('flags behind -- stand in the command line, with what systemd would read as its own escaped', async (t) => {
  const [unit] = (await unitsOf(t, 'agent', '--role', 'infra', '--meta', 'note=50% of "$HOME"')).units;
  assert.match(unit!.text, / daemon agent --role infra --meta "note=50%% of \\"\$\$HOME\\""$/m);
});

/** systemctl that writes down how it was called. */
function fakeSystemctl(t: TestContext, dir: string): { env: NodeJS.ProcessEnv; called(): string } {
  const log = join(dir, 'called');
  const bin = join(dir, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'systemctl'), `#!/bin/sh\necho "$@" >>'${log}'\n`);
  chmodSync(join(bin, 'systemctl'), 0o755);
  const env = cleanEnv(tempDir(t), { PATH: `${bin}:${process.env.PATH}` });
  return { env, called: () => (existsSync(log) ? readFileSync(log, 'utf8') : '') };
}

test('install says what it will do, does it when told, and does it again without harm', async (t) => {
  const dir = tempDir(t);
  const { env, called } = fakeSystemctl(t, dir);
  const units = join(dir, 'units');
  const install = (...more: string[]) =>
    run(process.execPath, [BIN, 'daemon', 'install', 'heartbeat-timer', '--user', '--unit-dir', units, ...more], {
      env,
    });
  const planned = await install('--dry-run', '--now');
  assert.equal(planned.code, 0);
  assert.match(
    planned.stdout,
    /^STEP\tWHAT\nwrite\t.*vreg-heartbeat\.service\nwrite\t.*vreg-heartbeat\.timer\nrun\tsystemctl --user daemon-reload\n/,
  );
  assert.equal((await install()).code, 7, 'nobody is there to say yes');
  assert.deepEqual([existsSync(units), called()], [false, '']);
  const done = await install('--now', '--yes');
  assert.equal(done.code, 0);
  assert.match(readFileSync(join(units, 'vreg-heartbeat.timer'), 'utf8'), /^OnClockChange=yes$/m);
  assert.equal(called(), '--user daemon-reload\n--user enable --now vreg-heartbeat.timer\n');
  const again = await install('--yes');
  assert.match(again.stdout, /\nkeep\t/);
});

test('install refuses a program that the service could not see, and a unit that is none', async (t) => {
  const dir = tempDir(t);
  const { env, called } = fakeSystemctl(t, dir);
  const words = [BIN, 'daemon', 'install', 'agent', '--unit-dir', dir, '--yes', '--', '--ca-file', '/root/ca.pem'];
  const refused = await run(process.execPath, words, { env });
  assert.equal(refused.code, 5);
  assert.match(refused.stderr, /cannot see \/(root|home)\/.*\nhint: .*--user/);
  const unknown = await run(process.execPath, [BIN, 'daemon', 'install', 'agnt'], { env });
  assert.equal(unknown.code, 5);
  assert.match(unknown.stderr, /did you mean "agent"/);
  assert.equal(called(), '');
});

const MANAGER = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
print("up", flush=True)
while True:
    data, fds, _, _ = socket.recv_fds(s, 4096, 8)
    for fd in fds: os.close(fd)
    print(data.decode().replace("\\n", " "), flush=True)
`;

/** A notify socket that writes down what it is told. */
async function notifySocket(t: TestContext): Promise<{ env: NodeJS.ProcessEnv; told(): string[] }> {
  const path = join(tempDir(t), 'notify');
  const manager = spawn('python3', ['-c', MANAGER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => manager.kill('SIGKILL'));
  let told = '';
  manager.stdout.setEncoding('utf8').on('data', (chunk: string) => (told += chunk));
  await until('the manager', () => told.includes('up'));
  const lines = () => told.split('\n').filter((line) => line !== '' && line !== 'up' && !line.includes('BARRIER'));
  return { env: { NOTIFY_SOCKET: path, WATCHDOG_USEC: '600000' }, told: lines };
}

const TOOLS = ['systemd-notify', 'python3'];

test('the daemon says when it is ready, how it does, that it lives, reloads and stops', unless(...TOOLS), async (t) => {
  const { env, told } = await notifySocket(t);
  const daemon = await startDaemon(t, { env });
  const has = (what: RegExp) => until(String(what), () => told().some((line) => what.test(line)));
  await has(/^READY=1 STATUS=0 VMs, 0 live, 0 stale$/);
  await has(/^WATCHDOG=1$/);
  daemon.child.kill('SIGHUP');
  await has(/^RELOADING=1$/);
  await has(/^READY=1$/);
  await daemon.end();
  assert.ok(told().indexOf('RELOADING=1') < told().indexOf('READY=1'));
  assert.equal(told().at(-1), 'STOPPING=1');
});

test('an agent whose registry is away is ready all the same, and says so', unless(...TOOLS), async (t) => {
  const { env, told } = await notifySocket(t);
  const agent = startLong(t, 'http://127.0.0.1:1', ['daemon', 'agent', '--interval', '100ms'], { env });
  const has = (what: RegExp) => until(String(what), () => told().some((line) => what.test(line)));
  await has(/^READY=1 STATUS=cannot reach the registry/);
  await has(/^WATCHDOG=1$/);
  agent.child.kill('SIGHUP');
  await has(/^RELOADING=1$/);
  await agent.end();
  assert.equal(told().at(-1), 'STOPPING=1');
});

test('a manager that cannot be told is a warning, and no end', async (t) => {
  const daemon = await startDaemon(t, { env: { NOTIFY_SOCKET: join(tempDir(t), 'nobody') } });
  await until('the warning', () => daemon.said().includes('systemd cannot be told'));
  assert.equal((await daemon.vreg(['health'])).code, 0);
});

test('a credential of the unit is the token, below a variable; SIGHUP reads it anew', async (t) => {
  const credentials = tempDir(t);
  const write = (token: string) => writeFileSync(join(credentials, 'token'), token, { mode: 0o400, flag: 'w' });
  write('first');
  const daemon = await startDaemon(t, { env: { CREDENTIALS_DIRECTORY: credentials } });
  const ask = async (token: string) =>
    (await fetch(`${daemon.url}/registry/vms`, { headers: { authorization: `Bearer ${token}` } })).status;
  assert.deepEqual([await ask('first'), await ask('second')], [200, 401]);
  chmodSync(join(credentials, 'token'), 0o600);
  write('second');
  daemon.child.kill('SIGHUP');
  await until('the new token', async () => (await ask('second')) === 200);
  assert.equal(await ask('first'), 401);
  const agent = startLong(t, daemon.url, ['daemon', 'agent'], { env: { CREDENTIALS_DIRECTORY: credentials } });
  const env = {
    ...daemon,
    vreg: (argv: readonly string[]) =>
      run(process.execPath, [BIN, ...argv], {
        env: cleanEnv(daemon.home, {
          VERS_INFRA_URL: daemon.url,
          VERS_AUTH_TOKEN: 'second',
          CREDENTIALS_DIRECTORY: '/nowhere',
        }),
      }),
  };
  await until('the registration', () => find(env));
  assert.equal(agent.child.exitCode, null);
});
