/** Files of the daemon and the agent in folders that another user may write to. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { inHome } from '../helpers/agent/agent.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';

const isRoot = process.geteuid?.() === 0;
const AS_ROOT = { skip: isRoot ? false : 'only root can give a folder to another user' };
/** Any user but root and the one that runs the tests. */
const STRANGER = 12_345;

function folder(t: TestContext, mode: number): { home: string; dir: string } {
  const home = tempDir(t);
  const dir = join(home, 'dir');
  mkdirSync(dir);
  chmodSync(dir, mode);
  return { home, dir };
}

for (const mode of [0o775, 0o777, 0o1777]) {
  test(`a data dir of mode ${mode.toString(8)} is refused with the command that makes a private one`, async (t) => {
    const { home, dir } = folder(t, mode);
    for (const command of [
      ['serve', '--port', '0'],
      ['serve', '--detach', '--port', '0'],
      ['agent'],
      ['agent', '--detach'],
    ]) {
      const { code, stderr } = await inHome(t, home, ['daemon', ...command, '--data-dir', dir]);
      assert.equal(code, 5, stderr);
      assert.match(
        stderr,
        /^vreg: refusing to use the folder \S+: other users may write to it \(mode \d+, from flag --data-dir\)\nhint: make it private: (chmod go-w|install -d -m 0700) /,
      );
    }
    assert.equal(existsSync(join(dir, 'registry.db')), false);
  });
}

for (const mode of [0o700, 0o750, 0o755]) {
  test(`a data dir of mode ${mode.toString(8)} is used`, async (t) => {
    const home = tempDir(t);
    mkdirSync(join(home, 'data'));
    chmodSync(join(home, 'data'), mode);
    const daemon = await startDaemon(t, { home });
    assert.equal((await fetch(`${daemon.url}/health`)).status, 200);
  });
}

test('a data dir that another user could replace is refused', async (t) => {
  const { home, dir } = folder(t, 0o777);
  const { code, stderr } = await inHome(t, home, ['daemon', 'serve', '--port', '0', '--data-dir', join(dir, 'data')]);
  assert.equal(code, 5, stderr);
  assert.ok(
    stderr.includes(
      `other users may replace it in ${dir} (mode 0777, from flag --data-dir)\nhint: make it private: chmod go-w ${dir};`,
    ),
    stderr,
  );
});

test('a data dir of another user is refused', AS_ROOT, async (t) => {
  const { home, dir } = folder(t, 0o755);
  chownSync(dir, STRANGER, STRANGER);
  const { code, stderr } = await inHome(t, home, ['daemon', 'serve', '--port', '0', '--data-dir', dir]);
  assert.equal(code, 5, stderr);
  assert.match(stderr, /another user owns it \(uid 12345, from flag --data-dir\)\nhint: make it private: chown -h 0 /);
});

test('a data dir below a folder or a link of another user is refused', AS_ROOT, async (t) => {
  const home = tempDir(t);
  const theirs = join(home, 'theirs');
  mkdirSync(join(theirs, 'data'), { recursive: true });
  chownSync(theirs, STRANGER, STRANGER);
  const link = join(home, 'link');
  mkdirSync(join(home, 'ours'));
  symlinkSync(join(home, 'ours'), link);
  lchownSync(link, STRANGER, STRANGER);
  const across = join(home, 'across');
  symlinkSync(theirs, across);
  for (const dir of [join(theirs, 'data'), join(link, 'data'), join(across, 'data')]) {
    const { code, stderr } = await inHome(t, home, ['daemon', 'serve', '--port', '0', '--data-dir', dir]);
    assert.equal(code, 5, `${dir}: ${stderr}`);
    assert.match(
      stderr,
      /another user owns \S+ \(uid 12345, from flag --data-dir\)\nhint: make it private: chown -h 0 /,
    );
  }
});

test('a log file that is a link is refused, and its target remains unchanged', async (t) => {
  for (const [which, log] of [
    ['serve', 'daemon.log'],
    ['agent', 'agent.log'],
  ] as const) {
    const home = tempDir(t);
    const target = join(home, 'target');
    writeFileSync(target, 'precious\n');
    mkdirSync(join(home, 'data'), { mode: 0o700 });
    symlinkSync(target, join(home, 'data', log));
    const { code, stderr } = await inHome(t, home, ['daemon', which, '--detach', '--data-dir', join(home, 'data')]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, new RegExp(`^vreg: cannot write the log \\S+${log} \\(ELOOP\\)\\nhint: `));
    assert.equal(readFileSync(target, 'utf8'), 'precious\n');
  }
});

test('a pid file that is a link is replaced, and its target remains unchanged', async (t) => {
  const home = tempDir(t);
  const target = join(home, 'target');
  writeFileSync(target, 'precious\n');
  mkdirSync(join(home, 'data'), { mode: 0o700 });
  symlinkSync(target, join(home, 'data', 'daemon.json'));
  const daemon = await startDaemon(t, { home });
  assert.equal(JSON.parse(readFileSync(join(daemon.dataDir, 'daemon.json'), 'utf8')).pid, daemon.child.pid);
  assert.equal(readFileSync(target, 'utf8'), 'precious\n');
});

test('errors about the data dir, the run dir and the socket name the variable or file that set the path', async (t) => {
  const { home, dir } = folder(t, 0o777);
  writeFileSync(join(home, 'file'), '');
  const cases = [
    ['serve', { VREG_DATA_DIR: dir }, /\(mode 0?777, from VREG_DATA_DIR\)\n/],
    [
      'serve',
      { VREG_DATA_DIR: join(home, 'file/data') },
      /cannot use the data dir .* \(E[A-Z]+, from VREG_DATA_DIR\)\n/,
    ],
    [
      'serve',
      { VREG_SOCKET: join(dir, 'sock') },
      /because other users may write there \(mode 0?777, from VREG_SOCKET\)\n/,
    ],
    ['serve', { VREG_SOCKET: join(home, 'none/sock') }, /cannot access the folder .* \(ENOENT, from VREG_SOCKET\)\n/],
    ['agent', { VREG_RUN_DIR: dir, VERS_INFRA_URL: 'http://127.0.0.1:1' }, /\(mode 0?777, from VREG_RUN_DIR\)\n/],
  ] as const;
  for (const [command, env, message] of cases) {
    const port = command === 'serve' ? ['--port', '0'] : [];
    const { code, stderr } = await inHome(t, home, ['daemon', command, ...port], { ...env });
    assert.notEqual(code, 0);
    assert.match(stderr, message);
  }
  const config = join(home, 'config');
  mkdirSync(join(config, 'vreg'), { recursive: true });
  writeFileSync(join(config, 'vreg/config.json'), JSON.stringify({ 'data-dir': dir }), { mode: 0o600 });
  const { stderr } = await inHome(t, home, ['daemon', 'serve', '--port', '0'], { XDG_CONFIG_HOME: config });
  assert.match(stderr, /, from config file\)\n/);
});

test('a run dir that others may write to is refused at start and by readers', async (t) => {
  const daemon = await startDaemon(t);
  const { home, dir } = folder(t, 0o777);
  const refused = await inHome(t, home, ['daemon', 'agent', '--run-dir', dir], { VERS_INFRA_URL: daemon.url });
  assert.equal(refused.code, 5, refused.stderr);
  assert.match(
    refused.stderr,
    /^vreg: refusing to use the folder .* from flag --run-dir\)\nhint: make it private: chmod go-w .*--run-dir\n$/,
  );
  mkdirSync(join(dir, 'by-role/infra'), { recursive: true });
  writeFileSync(join(dir, 'by-role/infra/at'), `${Math.floor(Date.now() / 1000)}\n`);
  writeFileSync(join(dir, 'by-role/infra/addr'), 'evil.test\n');
  await daemon.end();
  const read = await inHome(t, home, ['addr', 'infra', '--max-stale', '1h'], {
    VREG_RUN_DIR: dir,
    VERS_INFRA_URL: daemon.url,
  });
  assert.deepEqual([read.code, read.stdout], [5, ''], read.stderr);
  assert.match(read.stderr, /^vreg: refusing to read addresses from /);
});

/** A process that is not vreg's. */
async function bystander(t: TestContext) {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e9)'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  const started = readFileSync(`/proc/${child.pid}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ')[19];
  return { child, started };
}

const LINUX = { skip: process.platform === 'linux' ? false : 'needs /proc' };

test('stop does not signal a process that a forged pid file names', LINUX, async (t) => {
  const home = tempDir(t);
  const { child, started } = await bystander(t);
  const write = (dir: string, info: object) =>
    writeFileSync(
      join(dir, 'daemon.json'),
      JSON.stringify({ kind: 'serve', pid: child.pid, since: '', urls: [], ...info }),
    );
  const stop = (dir: string) => inHome(t, home, ['daemon', 'stop', '--data-dir', dir]);

  const dir = join(home, 'data');
  mkdirSync(dir, { mode: 0o700 });
  write(dir, {});
  const unproven = await stop(dir);
  assert.equal(unproven.code, 2, unproven.stderr);
  assert.match(unproven.stderr, /daemon\.json does not prove that pid \d+ is a process of vreg\nhint: .*kill \d+\n$/);

  write(dir, { started: '1' });
  assert.equal((await stop(dir)).code, 3, 'another start time');
  write(dir, { started, boot: 'another' });
  assert.equal((await stop(dir)).code, 3, 'another boot');

  write(dir, { started });
  chmodSync(dir, 0o777);
  const open = await stop(dir);
  assert.deepEqual([open.code, /chmod go-w/.test(open.stderr)], [5, true], open.stderr);
  const status = await inHome(t, home, ['daemon', 'status', '-q', '--data-dir', dir]);
  assert.deepEqual([status.code, status.stdout], [5, ''], status.stderr);
  chmodSync(dir, 0o700);

  const elsewhere = join(home, 'elsewhere');
  mkdirSync(elsewhere, { mode: 0o700 });
  symlinkSync(join(dir, 'daemon.json'), join(elsewhere, 'daemon.json'));
  assert.equal((await stop(elsewhere)).code, 3, 'a link');
  assert.equal(child.exitCode ?? child.signalCode, null, 'the process still runs');
});

test('root does not stop a process whose user did not write the pid file', AS_ROOT, async (t) => {
  const home = tempDir(t);
  const { child, started } = await bystander(t);
  const dir = join(home, 'data');
  mkdirSync(dir, { mode: 0o700 });
  writeFileSync(
    join(dir, 'daemon.json'),
    JSON.stringify({ kind: 'serve', pid: child.pid, started, since: '', urls: [] }),
  );
  chownSync(join(dir, 'daemon.json'), STRANGER, STRANGER);
  chownSync(dir, STRANGER, STRANGER);
  const { code, stderr } = await inHome(t, home, ['daemon', 'stop', '--data-dir', dir]);
  assert.equal(code, 2, stderr);
  assert.equal(child.exitCode ?? child.signalCode, null, 'the process still runs');
});
