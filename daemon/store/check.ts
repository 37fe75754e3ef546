/** Checks a database in a child process, because a damaged file can crash the SQLite library together with its process. */
import type { ChildProcess } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { VregError } from '../../src/protocol/errors.ts';
import { ensureAddon } from './addon.ts';
import type { DataDir } from './data-dir.ts';
import type { Loaded } from './database.ts';
import { type StoreFailure, toFailure, toOpenError } from './failures.ts';
import type { StoredRecord, StoredVm } from './store.ts';
import { decodeBatch } from './vm-batch.ts';
import type { CheckLine, CheckResult } from './worker.ts';
import { startCheck } from './worker-start.ts';

/**
 * Signals that a library raises in its own process. Other signals come from outside, for example SIGKILL if the system is out
 * of memory.
 */
const CRASH_SIGNALS: readonly string[] = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'];
const NEWLINE = 0x0a;
/** Messages that Node prints when it runs out of memory. */
const OUT_OF_MEMORY = /heap out of memory|memory allocation of \d+ bytes failed|Allocation failed/;

/** Receives the contents of a database while it is checked. If the check fails, discard them. */
export interface ContentsReceiver {
  /** If it throws, the check fails with its error. */
  vms(batch: StoredVm[]): void;
  records(batch: StoredRecord[]): void;
}

/**
 * Reads the entire database.
 * @param receiver if given, gets what was read
 * @returns undefined if the database is empty
 * @throws VregError ALREADY_RUNNING, STORE_DAMAGED, STORE_OLDER, STORE_NEWER, STORE_UNUSABLE
 */
export async function checkDatabase(dir: DataDir, receiver?: ContentsReceiver): Promise<Loaded | undefined> {
  const { result, release } = await lock(dir, receiver);
  await release();
  if ('failure' in result) throw toOpenError(dir, result.failure);
  return 'loaded' in result ? result.loaded : undefined;
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
export async function lock(dir: DataDir, receiver?: ContentsReceiver): Promise<LockedDatabase> {
  try {
    await ensureAddon();
    const child = startCheck(dir, receiver ? 'load' : 'check');
    child.stdin?.on('error', () => {});
    const ended = endOf(child);
    const result = await Promise.race([awaitResult(child, receiver), ended.then(explainEnd)]);
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

/** Resolves with the result among the lines of the output. Never resolves if there is none. */
function awaitResult({ stdout }: ChildProcess, receiver: ContentsReceiver | undefined): Promise<CheckResult> {
  return new Promise((resolve) => {
    const read = (line: CheckLine) => {
      if ('vms' in line) receiver?.vms(decodeBatch(line));
      else if ('records' in line) receiver?.records(line.records);
      else resolve(line);
    };
    let hasFailed = false;
    const readText = (text: string) => {
      if (hasFailed) return;
      let line: CheckLine;
      try {
        line = JSON.parse(text) as CheckLine;
      } catch {
        // This is not a result. The way in which the process ends explains more.
        return;
      }
      try {
        read(line);
      } catch (error) {
        hasFailed = true;
        resolve({ failure: toFailure(error) });
      }
    };
    let pieces: Buffer[] = [];
    stdout?.on('data', (chunk: Buffer) => {
      let from = 0;
      for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, from)) {
        readText(Buffer.concat([...pieces, chunk.subarray(from, end)]).toString());
        pieces = [];
        from = end + 1;
      }
      pieces.push(chunk.subarray(from));
    });
  });
}

/** Explains why a check ended without a result. */
function explainEnd({ stderr, code, signal }: End): { failure: StoreFailure } {
  const failure = (kind: StoreFailure['kind'], message: string) => ({ failure: { kind, message } });
  if (OUT_OF_MEMORY.test(stderr)) return failure('unchecked', 'the check ran out of memory');
  if (signal !== null && CRASH_SIGNALS.includes(signal))
    return failure('damaged', `reading it crashes the SQLite library (${signal})`);
  // Node failed before it opened the database, the check itself failed, or another process killed it.
  const lastError = stderr
    .trim()
    .split('\n')
    .findLast((line) => /error/i.test(line));
  return failure('unchecked', `the check ended early: ${lastError ?? signal ?? `exit code ${code}`}`);
}
