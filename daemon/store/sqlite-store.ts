/**
 * The durable store: SQLite in a worker thread, so that no sync ever blocks the event loop. While one transaction is on
 * the disk the next one gathers, so that many changes share a sync (group commit).
 */
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { VregError } from '../../src/protocol/errors.ts';
import type { HistoryItem } from '../../src/protocol/events.ts';
import { check, findFailure, WORKER } from './check.ts';
import { type DataDir, databaseSize, openDataDir, readMark } from './data-dir.ts';
import { atOpen, atWork, damaged, describe, StoreFailure } from './failures.ts';
import { bounded } from './journal.ts';
import type { Request } from './service.ts';
import type { Change, Contents, RecordChange, RecordCommit, Store, StoredHeartbeat } from './store.ts';
import type { Reply } from './worker.ts';

/** Changes that may wait for the disk: seconds of work for a slow disk. More would only wait longer. */
const MAX_WAITING = 20_000;
/** Bytes of entries that may wait with them: a sixteenth of the heap, since each is there some times over until it is written. */
const MAX_BYTES = Math.floor(getHeapStatistics().heap_size_limit / 16);
/** Bytes of an entry that waits in any case: none may be kept out by those of others that are large. */
const SMALL = 16_384;
/** Changes in one transaction, and their bytes: bounds how long the first of them waits for the last. */
const MAX_GROUP = 1_000;
const MAX_GROUP_BYTES = 16_777_216;

const WRITE = 'write to its disk';
const READ = 'read from its disk';

interface Waiting {
  commit: Change | RecordCommit;
  /** UTF-16 units of its JSON. */
  size: number;
  resolve(): void;
  reject(error: Error): void;
}

export interface SqliteStoreOptions {
  /** Made when it is not there. */
  dataDir: string;
  /** Called when the worker dies: what it acknowledged is on the disk, the rest is unknown, and the process should end. */
  onDeath(error: Error): void;
  /** Bytes of large entries that may wait for the disk; a share of the heap when nothing is said. */
  maxBytes?: number;
}

export class SqliteStore implements Store {
  readonly #worker: StoreWorker;
  readonly #maxBytes: number;
  #queue: Waiting[] = [];
  /** Of those in the queue, and of those on their way to the disk. */
  #bytes = 0;
  #draining: Promise<void> | undefined;
  #closed = false;
  #copying = false;

  private constructor(worker: StoreWorker, maxBytes: number) {
    this.#worker = worker;
    this.#maxBytes = maxBytes;
  }

  /**
   * Opens the store of a data dir, after a check that changes nothing.
   * @throws VregError ALREADY_RUNNING (another daemon has it), STORE_DAMAGED, STORE_UNUSABLE
   */
  static async open(options: SqliteStoreOptions): Promise<{ store: SqliteStore; contents: Contents }> {
    const { dataDir, onDeath, maxBytes = MAX_BYTES } = options;
    const dir = openDataDir(dataDir);
    const mark = readMark(dir);
    if (databaseSize(dir) > 0) await check(dir);
    else if (mark) throw damaged(dir, `it is missing or empty, but revision ${mark.revision} was acknowledged`);
    let isOpen = false;
    // A worker that ends before that has acknowledged nothing: its end is an error of the start.
    const worker = new StoreWorker(dir, (error) => isOpen && onDeath(error));
    try {
      const contents = (await worker.ask({ kind: 'open' })) as Contents;
      isOpen = true;
      return { store: new SqliteStore(worker, maxBytes), contents };
    } catch (error) {
      await worker.terminate();
      throw atOpen(dir, error as StoreFailure);
    }
  }

  commit(change: Change): Promise<void> {
    // Large values are left out of the journal, and would take long on their way to the worker.
    const note = { ...change.note, changes: bounded(change.note.changes) };
    return this.#enqueue({ ...change, note }, change.kind === 'put' ? change.vm.body.length : 0);
  }

  commitRecords(records: readonly RecordChange[]): Promise<void> {
    const size = records.reduce((sum, { body = '' }) => sum + body.length, 0);
    return this.#enqueue({ kind: 'records', records }, size);
  }

  #enqueue(commit: Change | RecordCommit, size: number): Promise<void> {
    if (this.#closed) throw new VregError('BUSY', 'the registry is shutting down', { retryAfter: 1 });
    if (this.#queue.length >= MAX_WAITING) {
      const hint = 'try again in a second';
      throw new VregError('BUSY', `${MAX_WAITING} changes already wait for the disk`, { hint, retryAfter: 1 });
    }
    if (size > SMALL && this.#bytes + size > this.#maxBytes) {
      throw new VregError('TOO_MANY_REQUESTS', `changes of ${this.#bytes} bytes already wait for the disk`, {
        hint: 'try again in a second, or keep less in metadata',
        retryAfter: 1,
      });
    }
    this.#bytes += size;
    return new Promise((resolve, reject) => {
      this.#queue.push({ commit, size, resolve, reject });
      this.#draining ??= this.#drain();
    });
  }

  async saveHeartbeats(
    heartbeats: readonly StoredHeartbeat[],
    listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    await this.#worker.ask({ kind: 'heartbeats', heartbeats, listened, records }).catch(failTo(WRITE));
  }

  async history(id: string, limit: number, before?: number): Promise<HistoryItem[]> {
    const request: Request = { kind: 'history', id, limit, before };
    return (await this.#worker.ask(request).catch(failTo(READ))) as HistoryItem[];
  }

  async backup(path: string): Promise<void> {
    if (this.#copying) {
      const hint = 'try again when it is done';
      throw new VregError('BUSY', 'another backup is being made', { hint, retryAfter: 5 });
    }
    this.#copying = true;
    let draft: string | undefined;
    try {
      // Made and checked where it cannot be mistaken for a good one, then moved to its name.
      draft = mkdtempSync(`${path}.`);
      const dir = openDataDir(draft);
      await this.#worker.ask({ kind: 'backup', path: dir.database });
      const failure = await findFailure(dir);
      if (failure) throw new StoreFailure(failure);
      renameSync(dir.database, path);
    } catch (error) {
      throw atWork('make a copy of itself', asFailure(error));
    } finally {
      this.#copying = false;
      if (draft !== undefined) rmSync(draft, { recursive: true, force: true });
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#draining;
    await this.#worker.close();
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const group = this.#queue.splice(0, groupOf(this.#queue));
      try {
        await this.#worker.ask({ kind: 'commit', commits: group.map(({ commit }) => commit) });
        for (const { size, resolve } of group) {
          this.#bytes -= size;
          resolve();
        }
      } catch (error) {
        // What waits was decided on changes that have just failed, so it fails with them.
        const failed = [...group, ...this.#queue];
        this.#queue = [];
        this.#bytes = 0;
        for (const { reject } of failed) reject(atWork(WRITE, error as StoreFailure));
      }
    }
    this.#draining = undefined;
  }
}

/** How many of those that wait make one transaction: one, however large. */
function groupOf(queue: readonly Waiting[]): number {
  let count = 0;
  for (let bytes = 0; count < Math.min(queue.length, MAX_GROUP); count++) {
    bytes += queue[count]!.size;
    if (bytes > MAX_GROUP_BYTES) break;
  }
  return Math.max(1, count);
}

/** Turns what the worker answers into what the caller reads. */
function failTo(what: string): (error: StoreFailure) => never {
  return (error) => {
    throw atWork(what, error);
  };
}

function asFailure(error: unknown): StoreFailure {
  return error instanceof StoreFailure ? error : new StoreFailure(describe(error));
}

/**
 * The worker as its one user sees it: ask, and wait for the answer. While nothing is asked it keeps no process alive: a
 * start that fails after the store was opened ends.
 */
class StoreWorker {
  readonly #worker: Worker;
  readonly #asked = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #seq = 0;
  #ending = false;
  /** Why it answers no more. */
  #end: string | undefined;

  constructor(dir: DataDir, onDeath: (error: Error) => void) {
    this.#worker = new Worker(WORKER, { workerData: { dir }, name: 'vreg-store' });
    this.#worker.on('message', (reply: Reply) => {
      const asked = this.#asked.get(reply.seq);
      this.#asked.delete(reply.seq);
      if (this.#asked.size === 0 && !this.#ending) this.#worker.unref();
      if ('failure' in reply) asked?.reject(new StoreFailure(reply.failure));
      else asked?.resolve(reply.value);
    });
    let fault: Error | undefined;
    this.#worker.on('error', (error) => (fault = error));
    this.#worker.on('exit', () => {
      const message = `the store's worker ended${fault ? `: ${fault.message}` : ''}`;
      this.#end = message;
      for (const { reject } of this.#asked.values()) reject(new StoreFailure({ kind: 'other', message }));
      this.#asked.clear();
      if (!this.#ending) onDeath(new Error(message, { cause: fault }));
    });
  }

  ask(request: Request): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#end !== undefined) return reject(new StoreFailure({ kind: 'other', message: this.#end }));
      const seq = ++this.#seq;
      this.#asked.set(seq, { resolve, reject });
      this.#worker.ref();
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
    this.#worker.ref();
    await this.#worker.terminate();
  }
}
