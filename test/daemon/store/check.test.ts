/** The check of a database is a child process: what its end means, however it ends. */
import assert from 'node:assert/strict';
import child_process, { execFileSync, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { check, WORKER } from '../../../daemon/store/check.ts';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { tempDir } from '../../helpers/daemon.ts';

/** Makes the check run another program. */
function runInstead(t: TestContext, command: string, args: readonly string[]): void {
  const { spawn } = child_process;
  const { mock } = t.mock.method(child_process, 'spawn', (_: string, __: string[], options: SpawnOptions) =>
    spawn(command, args, options),
  );
  syncBuiltinESMExports();
  t.after(() => {
    mock.restore();
    syncBuiltinESMExports();
  });
}

const node = (program: string) => [process.execPath, ['-e', program]] as const;
const die = (signal: string) => node(`process.kill(process.pid, '${signal}')`);

for (const [what, [command, args], message] of [
  ['killed, as for want of memory', die('SIGKILL'), /ended before it could tell: SIGKILL/],
  ['ended with its terminal', die('SIGHUP'), /ended before it could tell: SIGHUP/],
  ['out of memory', ['node', ['--max-old-space-size=8', '-e', 'const a=[];for(;;)a.push({})']], /out of memory/],
  ['broken', node("throw new Error('no such module')"), /ended before it could tell: .*no such module/],
  ['silent', node('process.exit(7)'), /ended before it could tell: exit code 7/],
  ['not to be started', [join('/nonexistent', 'node'), []], /cannot be started: .*ENOENT/],
] as const) {
  test(`a check that is ${what} says nothing of the database, which is not called damaged`, async (t) => {
    const dir = openDataDir(tempDir(t));
    runInstead(t, command, args);
    await assert.rejects(check(dir), (error: { code: string; message: string; hint: string }) => {
      assert.equal(error.code, 'STORE_UNUSABLE');
      assert.match(error.message, /^cannot check .*registry\.db: the check /);
      assert.match(error.message, message);
      assert.match(error.hint, /memory or processes/);
      return true;
    });
  });
}

for (const signal of ['SIGABRT', 'SIGSEGV', 'SIGBUS']) {
  test(`a check that ends by ${signal} is the library's end at a damaged file`, async (t) => {
    const dir = openDataDir(tempDir(t));
    runInstead(t, ...die(signal));
    await assert.rejects(check(dir), {
      code: 'STORE_DAMAGED',
      message: new RegExp(`registry\\.db is damaged: reading it ends the SQLite library \\(${signal}\\)`),
      hint: /vreg daemon restore FILE/,
    });
  });
}

test('a check ends with who asked for it, also while it is busy with the file', { timeout: 10_000 }, async (t) => {
  const dir = openDataDir(tempDir(t));
  // Opening it waits for a writer who never comes.
  execFileSync('mkfifo', [dir.database]);
  const child = child_process.spawn(process.execPath, [WORKER, 'check', dir.path], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  t.after(() => child.kill('SIGKILL'));
  const ended = once(child, 'close', { signal: t.signal });
  await once(child, 'spawn');
  child.stdin!.destroy();
  assert.deepEqual(await ended, [null, 'SIGKILL']);
});
