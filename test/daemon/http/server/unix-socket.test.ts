/** The trusted local way: a socket that nobody but its owner can use, or put another in the place of. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { checkClosed, checkPlace, removeDeadSocket } from '../../../../daemon/http/server/unix-socket.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../../../helpers/daemon.ts';

function refusal(path: string): VregError | undefined {
  try {
    checkPlace(path);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof VregError);
    return error;
  }
}

test('a socket in a folder that others can write to is refused, unless the folder is sticky', (t) => {
  const folder = join(tempDir(t), 'run');
  mkdirSync(folder);
  for (const [mode, taken] of [
    [0o700, true],
    [0o755, true],
    [0o1777, true],
    [0o777, false],
    [0o775, false],
    [0o757, false],
  ] as const) {
    chmodSync(folder, mode);
    const error = refusal(join(folder, 'vreg.sock'));
    assert.equal(error === undefined, taken, mode.toString(8));
    if (!error) continue;
    assert.deepEqual([error.code, error.field], ['USAGE', 'socket']);
    assert.match(error.message, /another user could replace it in .*run, because other users may write there \(mode 0/);
    assert.match(error.hint!, /^chmod go-w /);
  }
});

test("a socket in another user's folder is refused", {
  skip: process.geteuid?.() !== 0 && 'needs root, to give a folder away',
}, (t) => {
  const folder = join(tempDir(t), 'run');
  mkdirSync(folder);
  chownSync(folder, 12_345, 12_345);
  assert.match(refusal(join(folder, 'vreg.sock'))!.message, /another user owns it \(uid 12345\)/);
});

test('a socket path of more bytes than the system allows is refused', (t) => {
  const dir = tempDir(t);
  const ofBytes = (bytes: number) => join(dir, 'é'.repeat(4) + 'x'.repeat(bytes - dir.length - 1 - 8));
  assert.equal(refusal(ofBytes(107)), undefined);
  assert.match(refusal(ofBytes(108))!.message, /too long \(108 bytes, limit 107\)/);
});

test('a missing folder is an error, and the hint is the command that creates it', (t) => {
  const error = refusal(join(tempDir(t), 'none', 'vreg.sock'))!;
  assert.equal(error.code, 'LISTEN');
  assert.match(`${error.message} ${error.hint}`, /\(ENOENT\).*mkdir -p -m 700 /);
});

test('a socket that others can connect to is refused', async (t) => {
  const path = join(tempDir(t), 'vreg.sock');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => server.close());
  chmodSync(path, 0o600);
  checkClosed(path);
  for (const mode of [0o660, 0o606, 0o755]) {
    chmodSync(path, mode);
    assert.throws(() => checkClosed(path), /other users may connect to .*vreg\.sock \(mode 0/);
  }
  await assert.rejects(removeDeadSocket(path), {
    code: 'ADDRESS_IN_USE',
    message: new RegExp(`\\(pid ${process.pid}\\) is listening there`),
  });
});

test('a file that is not a socket is not removed', async (t) => {
  const dir = tempDir(t);
  const file = join(dir, 'precious');
  writeFileSync(file, 'kept');
  symlinkSync(file, join(dir, 'link'));
  for (const path of [file, join(dir, 'link')]) await assert.rejects(removeDeadSocket(path), /not a socket/);
  assert.equal(readFileSync(file, 'utf8'), 'kept');
});

test("another user's stale socket in a sticky folder is reported with the next step", {
  skip: process.geteuid?.() !== 0 && 'needs root, to be two users',
}, async (t) => {
  const folder = join(tempDir(t), 'run');
  const path = join(folder, 'vreg.sock');
  mkdirSync(folder);
  chmodSync(folder, 0o1777);
  // A process that is killed leaves its socket behind.
  const leave = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', leave]);
  chmodSync(path, 0o777);
  chownSync(folder, 12_346, 12_346);
  const before = process.cwd();
  // From within, since the folders above it may be closed to that user.
  process.chdir(folder);
  process.seteuid!(12_345);
  const removal = removeDeadSocket('vreg.sock');
  await removal.catch(() => {});
  process.seteuid!(0);
  process.chdir(before);
  await assert.rejects(removal, { code: 'LISTEN', message: /a stale socket cannot be removed \(EPERM\)/ });
});

test('the daemon refuses an unsafe socket path at start and exits with 5', async (t) => {
  const home = tempDir(t);
  const open = join(home, 'open');
  mkdirSync(open);
  chmodSync(open, 0o777);
  const words = ['daemon', 'serve', '--data-dir', join(home, 'data'), '--socket', join(open, 'vreg.sock')];
  const { code, stderr } = await run(PROGRAM, [...ENTRY, ...words], { env: cleanEnv(home) });
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: refusing to listen on .*vreg\.sock: another user could replace it.*\nhint: chmod go-w /);
});
