/** strace at a daemon's files: as a broken disk, which answers its system calls in the kernel's place, or as a witness of them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { type Daemon, endAfter } from '../daemon.ts';

/** A store's files, and what a disk is asked to do with them. */
const FILES = ['registry.db', 'registry.db-wal', 'registry.mark'];
const WRITES = 'pwrite64,write,fdatasync,fsync,ftruncate';

/** Attaches strace to a daemon that runs, at some of its files. @returns what detaches it; the daemon goes on */
async function attach(
  t: TestContext,
  { child, dataDir }: Daemon,
  names: readonly string[],
  words: readonly string[],
): Promise<() => Promise<void>> {
  const files = names.flatMap((name) => ['-P', `${dataDir}/${name}`]);
  const strace = spawn('strace', ['-f', '-p', String(child.pid), ...files, ...words], {
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
    strace.kill('SIGINT');
    await ended;
  };
  endAfter(t, end);
  return end;
}

/** Breaks the disk under the store of a daemon. @param error as errno(3) names it @returns what mends it */
export function breakDisk(t: TestContext, daemon: Daemon, error: string): Promise<() => Promise<void>> {
  // The question mark: not every machine has both.
  const calls = `${WRITES},?unlink,unlinkat`;
  return attach(t, daemon, [...FILES, 'daemon.json'], ['-o', '/dev/null', '-e', `inject=${calls}:error=${error}`]);
}

/** Writes down what a daemon's store writes, with every byte. @returns what ends it */
export function recordDisk(t: TestContext, daemon: Daemon, file: string): Promise<() => Promise<void>> {
  // -y names the file of a descriptor, -ttt says when, -xx and -s give all bytes: a page is 4096, a log's at most 65536.
  return attach(t, daemon, FILES, ['-y', '-ttt', '-xx', '-s', '65536', '-o', file, '-e', `trace=${WRITES}`]);
}

/** Calls that change a disk, one kind after the other. The question mark: not every machine has all of them. */
export const STEPS = {
  write: 'pwrite64,write',
  sync: 'fsync,fdatasync',
  cut: 'ftruncate',
  make: '?mkdir,mkdirat',
  rename: '?rename,?renameat,renameat2',
  remove: '?unlink,unlinkat,?rmdir',
} as const;

/**
 * Words that run a program which is killed just before its nth call of a kind, as each of its threads counts them.
 * @param paths only calls at these count; without any, all do
 */
export function killAt(calls: string, nth: number, paths: readonly string[] = []): string[] {
  const which = paths.flatMap((path) => ['-P', path]);
  // -D: the program is the process that was started, and not its child.
  return ['strace', '-D', '-f', '-o', '/dev/null', ...which, '-e', `inject=${calls}:signal=KILL:when=${nth}`];
}
