/** The check of a database runs in a child process. These tests cover each way in which that process can end. */
import assert from 'node:assert/strict';
import child_process, { execFileSync, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { checkDatabase } from '../../../daemon/store/check.ts';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { startCheck } from '../../../daemon/store/worker-start.ts';
import { tempDir } from '../../helpers/daemon.ts';

/** Makes the check run another program. @param args given the arguments of the check */
function runInstead(t: TestContext, command: string, args: (ofCheck: readonly string[]) => readonly string[]): void {
  const { spawn } = child_process;
  const { mock } = t.mock.method(child_process, 'spawn', (_: string, ofCheck: string[], options: SpawnOptions) => {
    const child = spawn(command, args(ofCheck), options);
    t.after(() => child.kill('SIGKILL'));
    return child;
  });
  syncBuiltinESMExports();
  t.after(() => {
    mock.restore();
    syncBuiltinESMExports();
  });
}

const node = (program: string) => [process.execPath, ['-e', program]] as const;
const die = (signal: string) => node(`process.kill(process.pid, '${signal}')`);

for (const [what, [command, args], message] of [
  ['killed by the kernel for lack of memory', die('SIGKILL'), /ended early: SIGKILL/],
  ['killed with its terminal', die('SIGHUP'), /ended early: SIGHUP/],
  ['out of memory', ['node', ['--max-old-space-size=8', '-e', 'const a=[];for(;;)a.push({})']], /out of memory/],
  ['broken', node("throw new Error('no such module')"), /ended early: .*no such module/],
  ['ended without output', node('process.exit(7)'), /ended early: exit code 7/],
  ['not started', [join('/nonexistent', 'node'), []], /cannot be started: .*ENOENT/],
] as const) {
  test(`if the check is ${what}, the database does not count as damaged`, async (t) => {
    const dir = openDataDir(tempDir(t));
    runInstead(t, command, () => args);
    await assert.rejects(checkDatabase(dir), (error: { code: string; message: string; hint: string }) => {
      assert.equal(error.code, 'STORE_UNUSABLE');
      assert.match(error.message, /^cannot check .*registry\.db: the check /);
      assert.match(error.message, message);
      assert.match(error.hint, /memory or stop some processes/);
      return true;
    });
  });
}

for (const signal of ['SIGABRT', 'SIGSEGV', 'SIGBUS']) {
  test(`a check that ends with ${signal} means that a damaged file crashed the library`, async (t) => {
    const dir = openDataDir(tempDir(t));
    const [command, args] = die(signal);
    runInstead(t, command, () => args);
    await assert.rejects(checkDatabase(dir), {
      code: 'STORE_DAMAGED',
      message: new RegExp(`registry\\.db is damaged: reading it crashes the SQLite library \\(${signal}\\)`),
      hint: /vreg daemon restore FILE/,
    });
  });
}

/** Printing the result, whose errors nothing catches, fails as soon as the thread of the check reads stdin. */
const FAIL_TO_PRINT = `
  const threads = require('node:worker_threads');
  const started = new Int32Array(new SharedArrayBuffer(4));
  threads.Worker = class extends threads.Worker {
    constructor(source, options) {
      const notify = "const { workerData: started } = require('node:worker_threads'); Atomics.store(started, 0, 1); Atomics.notify(started, 0);";
      super(notify + source, { ...options, workerData: started });
    }
  };
  JSON.stringify = () => {
    Atomics.wait(started, 0, 0);
    throw new RangeError('Invalid string length');
  };
`;

for (const action of ['check', 'load'] as const) {
  test(`an uncaught error in a ${action} ends it, and does not count as damage`, { timeout: 20_000 }, async (t) => {
    const dir = openDataDir(tempDir(t));
    writeFileSync(dir.database, 'not a database');
    const preload = join(tempDir(t), 'preload.cjs');
    writeFileSync(preload, FAIL_TO_PRINT);
    runInstead(t, process.execPath, (ofCheck) => ['--require', preload, ...ofCheck]);
    const receiver = action === 'load' ? { vms: () => {}, records: () => {} } : undefined;
    await assert.rejects(checkDatabase(dir, receiver), {
      code: 'STORE_UNUSABLE',
      message: /^cannot check .*registry\.db: the check ended early: RangeError: Invalid string length$/,
      hint: /start again/,
    });
  });
}

test('a check ends with its parent, even while it is blocked on the file', { timeout: 10_000 }, async (t) => {
  const dir = openDataDir(tempDir(t));
  // Opening a pipe waits for a writer.
  execFileSync('mkfifo', [dir.database]);
  const child = startCheck(dir);
  t.after(() => child.kill('SIGKILL'));
  const ended = once(child, 'close', { signal: t.signal });
  await once(child, 'spawn');
  child.stdin!.destroy();
  assert.deepEqual(await ended, [null, 'SIGKILL']);
});
