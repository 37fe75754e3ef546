/** strace as a broken disk: it answers a daemon's system calls in the kernel's place, for the store's files alone. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type Daemon, endAfter } from './daemon.ts';

/** What a disk is asked to do with what it is given. */
const WRITES = 'pwrite64,write,fdatasync,fsync,ftruncate';

/** Breaks the disk under the store of a daemon that runs. @param error as errno(3) names it @returns what mends it */
export async function breakDisk(
  t: Parameters<typeof endAfter>[0],
  { child, dataDir }: Daemon,
  error: string,
): Promise<() => Promise<void>> {
  const files = ['registry.db', 'registry.db-wal', 'registry.mark'].flatMap((name) => ['-P', `${dataDir}/${name}`]);
  const words = ['-f', '-p', String(child.pid), '-o', '/dev/null', ...files];
  const strace = spawn('strace', [...words, '-e', `inject=${WRITES}:error=${error}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  const ended = once(strace, 'close');
  await new Promise<void>((resolve, reject) => {
    strace.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      if (/attached/.test(said)) resolve();
    });
    ended.then(() => reject(new Error(`strace ended: ${said}`)), reject);
  });
  const end = async () => {
    // It lets go of the daemon, which goes on.
    strace.kill('SIGINT');
    await ended;
  };
  endAfter(t, end);
  return async () => {
    await end();
    assert.equal(child.exitCode, null);
  };
}
