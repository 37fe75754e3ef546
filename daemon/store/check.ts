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
  const { finding, release } = await hold(dir);
  await release();
  return 'failure' in finding ? finding.failure : undefined;
}

/** A database that was read, and that no daemon can open until it is released, or this process ends. */
export interface Held {
  finding: Finding;
  release(): Promise<void>;
}

/** Reads the whole database, and keeps its lock where it got it. */
export async function hold(dir: DataDir): Promise<Held> {
  try {
    // Its stdin is what it holds on to: it ends with that, and so with this process, however this ends.
    const child = spawn(process.execPath, [WORKER, 'check', dir.path], { stdio: ['pipe', 'pipe', 'pipe'] });
    child.stdin?.on('error', () => {});
    const ended = endOf(child);
    const finding = await Promise.race([findingOf(child), ended.then(meaningOf)]);
    const release = async () => {
      child.stdin?.end();
      await ended;
    };
    return { finding, release };
  } catch (error) {
    const failure: Failure = {
      kind: 'unchecked',
      message: `the check cannot be started: ${describe(error).message}`,
    };
    return { finding: { failure }, release: async () => {} };
  }
}

interface Said {
  stderr: string;
  code: number | null;
  signal: NodeJS.Signals | null;
}

async function endOf(child: ChildProcess): Promise<Said> {
  const ended = new Promise<Pick<Said, 'code' | 'signal'>>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  // Where there are no pipes left, there are no streams.
  const [end, stderr] = await Promise.all([ended, child.stderr ? text(child.stderr) : '']);
  return { ...end, stderr };
}

/** Resolves with its first line, if it says one. */
function findingOf({ stdout }: ChildProcess): Promise<Finding> {
  return new Promise((resolve) => {
    let said = '';
    stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
      if (!said.endsWith('\n')) return;
      try {
        resolve(JSON.parse(said) as Finding);
      } catch {
        // Not its own words: its end says more.
      }
    });
  });
}

/** What an end without a word means. */
function meaningOf({ stderr, code, signal }: Said): { failure: Failure } {
  const failure = (kind: Failure['kind'], message: string) => ({ failure: { kind, message } });
  if (NO_MEMORY.test(stderr)) return failure('unchecked', 'the check ran out of memory');
  if (signal !== null && OF_THE_LIBRARY.includes(signal))
    return failure('damaged', `reading it ends the SQLite library (${signal})`);
  // Node itself did not get as far as the database, or somebody ended it.
  const why =
    signal ??
    stderr
      .trim()
      .split('\n')
      .findLast((line) => /error/i.test(line)) ??
    `exit code ${code}`;
  return failure('unchecked', `the check was ended before it could tell: ${why}`);
}
