/** Checks a database in a child process, because a damaged file can crash the SQLite library together with its process. */
import type { ChildProcess } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { VregError } from '../../src/protocol/errors.ts';
import { ensureAddon } from './addon.ts';
import type { DataDir } from './data-dir.ts';
import { type StoreFailure, toFailure, toOpenError } from './failures.ts';
import type { CheckResult } from './worker.ts';
import { startCheck } from './worker-start.ts';

/**
 * Signals that a library raises in its own process. Other signals come from outside, for example SIGKILL if the system is out
 * of memory.
 */
const CRASH_SIGNALS: readonly string[] = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'];
/** Messages that Node prints when it runs out of memory. */
const OUT_OF_MEMORY = /heap out of memory|memory allocation of \d+ bytes failed|Allocation failed/;

/** Reads the entire database. @throws VregError ALREADY_RUNNING, STORE_DAMAGED, STORE_OLDER, STORE_NEWER, STORE_UNUSABLE */
export async function checkDatabase(dir: DataDir): Promise<void> {
  const failure = await findFailure(dir);
  if (failure) throw toOpenError(dir, failure);
}

/** @returns the damage, or the reason why the database could not be checked; undefined if it is intact */
export async function findFailure(dir: DataDir): Promise<StoreFailure | undefined> {
  const { result, release } = await lock(dir);
  await release();
  return 'failure' in result ? result.failure : undefined;
}

/** A database that was checked. No daemon can open it until it is released or this process ends. */
export interface LockedDatabase {
  result: CheckResult;
  release(): Promise<void>;
}

/** Reads the entire database and keeps it locked, unless the check failed before it acquired the lock. */
export async function lock(dir: DataDir): Promise<LockedDatabase> {
  try {
    await ensureAddon();
    const child = startCheck(dir);
    child.stdin?.on('error', () => {});
    const ended = endOf(child);
    const result = await Promise.race([readResult(child), ended.then(explainEnd)]);
    const release = async () => {
      child.stdin?.end();
      await ended;
    };
    return { result, release };
  } catch (error) {
    const isOurs = error instanceof VregError;
    const message = `the check cannot be started: ${isOurs ? error.message : toFailure(error).message}`;
    const hint = isOurs ? error.hint : undefined;
    return { result: { failure: { kind: 'unchecked', message, hint } }, release: async () => {} };
  }
}

interface End {
  stderr: string;
  code: number | null;
  signal: NodeJS.Signals | null;
}

async function endOf(child: ChildProcess): Promise<End> {
  const closed = new Promise<Pick<End, 'code' | 'signal'>>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  // If the child could not be spawned because there were no pipes, it has no streams.
  const [end, stderr] = await Promise.all([closed, child.stderr ? text(child.stderr) : '']);
  return { ...end, stderr };
}

/** Resolves with the first line of the output. Never resolves if there is none. */
function readResult({ stdout }: ChildProcess): Promise<CheckResult> {
  return new Promise((resolve) => {
    let output = '';
    stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk;
      if (!output.endsWith('\n')) return;
      try {
        resolve(JSON.parse(output) as CheckResult);
      } catch {
        // This is not a result. The way in which the process ends explains more.
      }
    });
  });
}

/** Explains why a check ended without a result. */
function explainEnd({ stderr, code, signal }: End): { failure: StoreFailure } {
  const failure = (kind: StoreFailure['kind'], message: string) => ({ failure: { kind, message } });
  if (OUT_OF_MEMORY.test(stderr)) return failure('unchecked', 'the check ran out of memory');
  if (signal !== null && CRASH_SIGNALS.includes(signal))
    return failure('damaged', `reading it crashes the SQLite library (${signal})`);
  // Node failed before it opened the database, or another process killed it.
  const lastError = stderr
    .trim()
    .split('\n')
    .findLast((line) => /error/i.test(line));
  return failure('unchecked', `the check ended early: ${signal ?? lastError ?? `exit code ${code}`}`);
}
