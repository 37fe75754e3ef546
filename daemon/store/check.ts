/** A look at a whole database in a child process, which a damaged file may kill instead of the daemon. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { DataDir } from './data-dir.ts';
import { atOpen, describe, type Failure, StoreFailure } from './failures.ts';
import type { Finding } from './worker.ts';

/** Set by the build to the folder of the bundle; the sources use the last build's worker. */
declare const __DIST__: string | undefined;
export const WORKER = join(
  typeof __DIST__ === 'string' ? __DIST__ : join(import.meta.dirname, '../../dist'),
  'store-worker.cjs',
);

/** Signals that a library sends its own process; any other came from outside (SIGKILL: from a kernel without memory). */
const OF_THE_LIBRARY: readonly string[] = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'];
/** How Node says that it aborts for want of memory. */
const NO_MEMORY = /heap out of memory|memory allocation of \d+ bytes failed|Allocation failed/;

/** Reads the whole database. @throws VregError ALREADY_RUNNING, STORE_DAMAGED, STORE_NEWER, STORE_UNUSABLE */
export async function check(dir: DataDir): Promise<void> {
  const failure = await findFailure(dir);
  if (failure) throw atOpen(dir, new StoreFailure(failure));
}

/** @returns what is wrong with the database, or that it is not known; undefined: it is whole */
export async function findFailure(dir: DataDir): Promise<Failure | undefined> {
  let said: Said;
  try {
    said = await read(spawn(process.execPath, [WORKER, 'check', dir.path], { stdio: ['ignore', 'pipe', 'pipe'] }));
  } catch (error) {
    return { kind: 'unchecked', message: `the check cannot be started: ${describe(error).message}` };
  }
  try {
    const finding = JSON.parse(said.stdout) as Finding;
    return 'failure' in finding ? finding.failure : undefined;
  } catch {
    return meaningOf(said);
  }
}

interface Said {
  stdout: string;
  stderr: string;
  code: number | null;
  signal: NodeJS.Signals | null;
}

async function read(child: ChildProcess): Promise<Said> {
  const ended = new Promise<Pick<Said, 'code' | 'signal'>>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  // Where there are no pipes left, there are no streams.
  const streams = [child.stdout, child.stderr].map((stream) => (stream ? text(stream) : ''));
  const [end, stdout, stderr] = await Promise.all([ended, ...streams] as const);
  return { ...end, stdout: stdout!, stderr: stderr! };
}

/** What an end without a word means. */
function meaningOf({ stderr, code, signal }: Said): Failure {
  if (NO_MEMORY.test(stderr)) return { kind: 'unchecked', message: 'the check ran out of memory' };
  if (signal !== null && OF_THE_LIBRARY.includes(signal))
    return { kind: 'damaged', message: `reading it ends the SQLite library (${signal})` };
  // Node itself did not get as far as the database, or somebody ended it.
  const why =
    signal ??
    stderr
      .trim()
      .split('\n')
      .findLast((line) => /error/i.test(line)) ??
    `exit code ${code}`;
  return { kind: 'unchecked', message: `the check was ended before it could tell: ${why}` };
}
