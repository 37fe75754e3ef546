/**
 * The durable store: SQLite in a worker thread, so that no sync ever blocks the event loop. While one transaction is on
 * the disk the next one gathers, so that many changes share a sync (group commit).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Worker } from 'node:worker_threads';
import { VregError } from '../../src/protocol/errors.ts';
import type { HistoryItem } from '../../src/protocol/events.ts';
import { type DataDir, databaseSize, openDataDir, readMark } from './data-dir.ts';
import type { Beat, Change, Contents, RecordChange, Store } from './store.ts';
import type { Failure, Finding, Reply, Request } from './worker.ts';

/** Changes that may wait for the disk: seconds of work for a slow disk. More would only wait longer. */
const MAX_WAITING = 20_000;
/** Changes in one transaction: bounds how long the first of them waits for the last. */
const MAX_GROUP = 1_000;

/** Set by the build to the folder of the bundle; the sources use the last build's worker. */
declare const __DIST__: string | undefined;
const WORKER = join(
  typeof __DIST__ === 'string' ? __DIST__ : join(import.meta.dirname, '../../dist'),
  'store-worker.cjs',
);

interface Waiting {
  change: Change;
  resolve(): void;
  reject(error: Error): void;
}

export interface SqliteStoreOptions {
  /** Made when it is not there. */
  dataDir: string;
  /** Called when the worker dies: what it acknowledged is on the disk, the rest is unknown, and the process should end. */
  onDeath(error: Error): void;
}

export class SqliteStore implements Store {
  readonly #worker: StoreWorker;
  #queue: Waiting[] = [];
  #draining: Promise<void> | undefined;
  #closed = false;

  private constructor(worker: StoreWorker) {
    this.#worker = worker;
  }

  /**
   * Opens the store of a data dir, after a check that changes nothing.
   * @throws VregError ALREADY_RUNNING (another daemon has it), STORE_DAMAGED, STORE_UNUSABLE
   */
  static async open({ dataDir, onDeath }: SqliteStoreOptions): Promise<{ store: SqliteStore; contents: Contents }> {
    const dir = openDataDir(dataDir);
    const mark = readMark(dir);
    if (databaseSize(dir) > 0) await check(dir);
    else if (mark) throw damaged(dir, `it is missing or empty, but revision ${mark.revision} was acknowledged`);
    const worker = new StoreWorker(dir, onDeath);
    try {
      const contents = (await worker.ask({ kind: 'open' })) as Contents;
      return { store: new SqliteStore(worker), contents };
    } catch (error) {
      await worker.terminate();
      throw atOpen(dir, error as StoreFailure);
    }
  }

  commit(change: Change): Promise<void> {
    if (this.#closed) throw new VregError('BUSY', 'the registry is shutting down', { retryAfter: 1 });
    if (this.#queue.length >= MAX_WAITING) {
      const hint = 'try again in a second';
      throw new VregError('BUSY', `${MAX_WAITING} changes already wait for the disk`, { hint, retryAfter: 1 });
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ change, resolve, reject });
      this.#draining ??= this.#drain();
    });
  }

  async saveBeats(beats: readonly Beat[], listened: number, records: readonly RecordChange[] = []): Promise<void> {
    await this.#ask({ kind: 'beats', beats, listened, records });
  }

  async history(id: string, limit: number, before?: number): Promise<HistoryItem[]> {
    return (await this.#ask({ kind: 'history', id, limit, before })) as HistoryItem[];
  }

  async backup(path: string): Promise<void> {
    // Made and checked where it cannot be mistaken for a good one, then moved to its name.
    const dir = openDataDir(mkdtempSync(`${path}.`));
    try {
      await this.#ask({ kind: 'backup', path: dir.database });
      await check(dir);
      renameSync(dir.database, path);
    } finally {
      rmSync(dir.path, { recursive: true, force: true });
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#draining;
    await this.#worker.close();
  }

  #ask(request: Request): Promise<unknown> {
    return this.#worker.ask(request).catch((error: StoreFailure) => {
      throw atWrite(error);
    });
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const group = this.#queue.splice(0, MAX_GROUP);
      try {
        await this.#worker.ask({ kind: 'commit', changes: group.map(({ change }) => change) });
        for (const { resolve } of group) resolve();
      } catch (error) {
        // What waits was decided on changes that have just failed, so it fails with them.
        const failed = [...group, ...this.#queue];
        this.#queue = [];
        for (const { reject } of failed) reject(atWrite(error as StoreFailure));
      }
    }
    this.#draining = undefined;
  }
}

/** What the worker answers when it could not do what it was asked. */
class StoreFailure extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.message);
    this.failure = failure;
  }
}

/** The worker as its one user sees it: ask, and wait for the answer. */
class StoreWorker {
  readonly #worker: Worker;
  readonly #asked = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #seq = 0;
  #ending = false;

  constructor(dir: DataDir, onDeath: (error: Error) => void) {
    this.#worker = new Worker(WORKER, { workerData: { dir }, name: 'vreg-store' });
    this.#worker.on('message', (reply: Reply) => {
      const asked = this.#asked.get(reply.seq);
      this.#asked.delete(reply.seq);
      if ('failure' in reply) asked?.reject(new StoreFailure(reply.failure));
      else asked?.resolve(reply.value);
    });
    let fault: Error | undefined;
    this.#worker.on('error', (error) => (fault = error));
    this.#worker.on('exit', () => {
      const message = `the store's worker ended${fault ? `: ${fault.message}` : ''}`;
      for (const { reject } of this.#asked.values()) reject(new StoreFailure({ kind: 'other', message }));
      this.#asked.clear();
      if (!this.#ending) onDeath(new Error(message, { cause: fault }));
    });
  }

  ask(request: Request): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const seq = ++this.#seq;
      this.#asked.set(seq, { resolve, reject });
      this.#worker.postMessage({ seq, request });
    });
  }

  async close(): Promise<void> {
    this.#ending = true;
    try {
      await this.ask({ kind: 'close' });
    } finally {
      await this.#worker.terminate();
    }
  }

  async terminate(): Promise<void> {
    this.#ending = true;
    await this.#worker.terminate();
  }
}

/** Reads the whole database in a child process. @throws VregError as {@link SqliteStore.open} */
export async function check(dir: DataDir): Promise<void> {
  const child = spawn(process.execPath, [WORKER, 'check', dir.path], { stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(child, 'close') as Promise<[code: number | null, signal: NodeJS.Signals | null]>;
  const [line, [code, signal]] = await Promise.all([text(child.stdout), ended]).catch((cause: Error) => {
    throw new VregError('STORE_UNUSABLE', `cannot start the check of ${dir.database}: ${cause.message}`, {
      hint: 'free some memory or processes, then start again',
      cause,
    });
  });
  let finding: Finding;
  try {
    finding = JSON.parse(line) as Finding;
  } catch {
    throw damaged(dir, `reading it ends the SQLite library (${signal ?? code})`);
  }
  if ('failure' in finding) throw atOpen(dir, new StoreFailure(finding.failure));
}

function atOpen(dir: DataDir, { failure }: StoreFailure): VregError {
  switch (failure.kind) {
    case 'busy':
      return new VregError('ALREADY_RUNNING', `another process has the data dir ${dir.path}`, {
        hint: `stop it (vreg daemon stop serve --data-dir ${dir.path}), or give this one another --data-dir`,
      });
    case 'damaged':
      return damaged(dir, failure.message);
    case 'full':
      return new VregError('STORE_UNUSABLE', `no room on the disk of ${dir.path}`, {
        hint: 'free some space, then start again',
      });
    case 'other':
      return new VregError('STORE_UNUSABLE', `cannot open ${dir.database}: ${failure.message}`, {
        hint: 'check that this user may read and write it',
      });
  }
}

function atWrite({ failure }: StoreFailure): VregError {
  if (failure.kind === 'full') {
    return new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed', {
      hint: "free space on the registry's disk; reads and heartbeats go on meanwhile",
      retryAfter: 5,
    });
  }
  return new VregError('INTERNAL', `the registry could not write to its disk: ${failure.message}`, {
    hint: "see the daemon's log",
  });
}

function damaged(dir: DataDir, what: string): VregError {
  return new VregError('STORE_DAMAGED', `${dir.database} is damaged: ${what}`, {
    hint: `nothing was changed; put a backup in its place (vreg daemon restore FILE), or start an empty registry with another --data-dir`,
  });
}
