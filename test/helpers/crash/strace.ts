/** Attaches strace to a daemon, either to make its system calls fail like a broken disk, or to record them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { type Daemon, endAfter } from '../daemon.ts';

/** The files of a store, and the system calls that change them. */
const FILES = ['registry.db', 'registry.db-wal', 'registry.mark'];
const WRITES = 'pwrite64,write,fdatasync,fsync,ftruncate';

/** Attaches strace to some files of a running daemon. @returns a function that detaches it */
async function attach(
  t: TestContext,
  { child, dataDir }: Daemon,
  names: readonly string[],
  options: readonly string[],
): Promise<() => Promise<void>> {
  const files = names.flatMap((name) => ['-P', `${dataDir}/${name}`]);
  const strace = spawn('strace', ['-f', '-p', String(child.pid), ...files, ...options], {
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

/** Breaks the disk under the store of a daemon. @param error a name from errno(3) @returns a function that repairs it */
export function breakDisk(t: TestContext, daemon: Daemon, error: string): Promise<() => Promise<void>> {
  // The question mark makes strace ignore calls that this architecture lacks.
  const calls = `${WRITES},?unlink,unlinkat`;
  return attach(t, daemon, [...FILES, 'daemon.json'], ['-o', '/dev/null', '-e', `inject=${calls}:error=${error}`]);
}

/** Records every write of a daemon's store, with all bytes. @returns a function that ends the recording */
export function recordDisk(t: TestContext, daemon: Daemon, file: string): Promise<() => Promise<void>> {
  // -y: file names, -ttt: timestamps, -xx and -s: all bytes (a page has 4096, a write to the log at most 65536).
  return attach(t, daemon, FILES, ['-y', '-ttt', '-xx', '-s', '65536', '-o', file, '-e', `trace=${WRITES}`]);
}

/** System calls that change a disk, by kind. The question mark makes strace ignore calls that this architecture lacks. */
export const STEPS = {
  write: 'pwrite64,write',
  sync: 'fsync,fdatasync',
  cut: 'ftruncate',
  make: '?mkdir,mkdirat',
  rename: '?rename,?renameat,renameat2',
  remove: '?unlink,unlinkat,?rmdir',
} as const;

/**
 * @returns the beginning of a command line that kills the program just before its nth call of a kind, counted in each thread
 * @param paths count only calls on these paths; all calls if empty
 */
export function killAt(calls: string, nth: number, paths: readonly string[] = []): string[] {
  const which = paths.flatMap((path) => ['-P', path]);
  // -D: the spawned process is the program itself, and strace is its grandchild.
  return ['strace', '-D', '-f', '-o', '/dev/null', ...which, '-e', `inject=${calls}:signal=KILL:when=${nth}`];
}
