/**
 * The durable store: SQLite in a worker thread, so that a sync never blocks the event loop. While a transaction is being
 * written, changes are collected for the next one, so that many changes share a sync (group commit).
 */
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { VregError } from '../../src/protocol/errors.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Budget, Reservation } from '../limits/budgets.ts';
import { type ContentsReceiver, checkDatabase, findFailure } from './check.ts';
import { type DataDir, databaseSize, openDataDir, readHighWaterMark } from './data-dir.ts';
import type { CheckedState, Filling, Loaded } from './database.ts';
import { StoreError, toFailure, toOpenError, toRuntimeError } from './failures.ts';
import { watchGrowth } from './file-growth.ts';
import { batchesOf } from './heartbeat-batch.ts';
import { DamageError } from './integrity.ts';
import { withJournalText } from './journal.ts';
import type {
  Change,
  Contents,
  ForEach,
  JournalItem,
  LastChange,
  RecordChange,
  Store,
  StoredHeartbeat,
  StoredRecord,
  StoredVm,
} from './store.ts';
import type { Message, Reply, Request } from './worker.ts';
import { startWorker } from './worker-start.ts';

/** Maximum number of queued changes: a slow disk writes them in a few seconds. */
const MAX_WAITING = 20_000;
/**
 * Maximum number of UTF-16 units in a change that is accepted even if the budget is exhausted, so that large entries never
 * block small ones.
 */
const SMALL_CHANGE = 16_384;
/** Maximum number of changes per transaction. It limits how long the first one waits for the others. */
const MAX_GROUP = 1_000;
/** Maximum number of UTF-16 units per transaction, for the same reason. A larger change is a separate transaction. */
const MAX_GROUP_SIZE = 16_777_216;

const WRITE = 'write to its disk';
const READ = 'read from its disk';

export function backupInProgress(): VregError {
  const hint = 'retry when it is complete';
  return new VregError('BUSY', 'another backup is in progress', { hint, retryAfter: 5 });
}

interface Waiting {
  /** Changes that must be in one transaction. JSON, if they were serialized in slices. */
  changes: readonly (Change<string> | string)[];
  /** Size of the commit's JSON in UTF-16 units. */
  size: number;
  reservation: Reservation;
  resolve(): void;
  reject(error: Error): void;
}

export interface SqliteStoreOptions<V> {
  /** Path of the data dir, which is created if it does not exist. */
  dataDir: string;
  /** Memory budget for the changes that wait for the disk. */
  budget: Budget;
  /**
   * Converts each VM as soon as it was read, while the next ones are being checked. If it throws, the entry is damaged.
   * @returns undefined to leave the VM out of the contents
   */
  decode(vm: StoredVm): V | undefined;
  /**
   * Called if the worker dies. Acknowledged changes are on the disk, but the outcome of the others is unknown, so the process
   * should exit.
   */
  onDeath(error: Error): void;
}

export class SqliteStore implements Store {
  readonly #dir: DataDir;
  readonly #worker: WorkerClient;
  readonly #budget: Budget;
  #queue: Waiting[] = [];
  #draining: Promise<void> | undefined;
  #isClosed = false;
  #isBackingUp = false;

  private constructor(dir: DataDir, worker: WorkerClient, budget: Budget) {
    this.#dir = dir;
    this.#worker = worker;
    this.#budget = budget;
  }

  /**
   * Opens the store in a data dir, after a check that does not modify it.
   * @throws VregError ALREADY_RUNNING, STORE_DAMAGED, STORE_OLDER, STORE_NEWER, STORE_UNUSABLE
   */
  static async open<V>({
    dataDir,
    budget,
    decode,
    onDeath,
  }: SqliteStoreOptions<V>): Promise<{ store: SqliteStore; contents: Contents<V> }> {
    const dir = openDataDir(dataDir);
    let isOpen = false;
    // If the worker dies before the store is open, nothing has been acknowledged, and the start fails.
    const worker = new WorkerClient(dir, (error) => isOpen && onDeath(error));
    try {
      const vms: V[] = [];
      const records: StoredRecord[] = [];
      const loaded = await loadFiles(dir, {
        vms: (batch) => {
          for (const stored of batch) {
            const vm = decodeVm(stored, decode);
            if (vm !== undefined) vms.push(vm);
          }
        },
        records: (batch) => records.push(...batch),
      });
      // A new store is empty.
      const created = await worker.open(loaded?.state);
      isOpen = true;
      const contents = loaded ? { ...loaded.contents, vms, records } : { ...created!, vms };
      // The first change would do this otherwise.
      worker.ask({ kind: 'prepare' }).catch(() => {});
      return { store: new SqliteStore(dir, worker, budget), contents };
    } catch (error) {
      await worker.terminate();
      throw error instanceof VregError ? error : toOpenError(dir, toFailure(error));
    }
  }

  commit(change: Change): Promise<Position> {
    const { records = [] } = change;
    const size = records.reduce(
      (sum, { body = '' }) => sum + body.length,
      change.kind === 'put' ? change.vm.body.length : 0,
    );
    return this.#enqueue([withJournalText(change)], size, change);
  }

  async commitAll(changes: readonly Change[], forEach: ForEach): Promise<void> {
    const texts: string[] = [];
    let size = 0;
    // Copying thousands of objects to the worker would block the event loop. Copying their JSON takes milliseconds.
    await forEach(changes, (change) => {
      const text = JSON.stringify(withJournalText(change));
      texts.push(text);
      size += text.length;
    });
    await this.#enqueue(texts, size, undefined);
  }

  /** @param value of the promise when the changes are durable */
  #enqueue<T>(changes: Waiting['changes'], size: number, value: T): Promise<T> {
    if (this.#isClosed) throw new VregError('BUSY', 'the registry is shutting down', { retryAfter: 1 });
    if (this.#queue.length >= MAX_WAITING) {
      const message = `too many queued changes (limit ${MAX_WAITING})`;
      throw new VregError('BUSY', message, { hint: 'retry in a second', retryAfter: 1 });
    }
    const reservation = size > SMALL_CHANGE ? this.#budget.reserve(size) : this.#budget.reserveAnyway(size);
    return new Promise((resolve, reject) => {
      this.#queue.push({ changes, size, reservation, resolve: () => resolve(value), reject });
      this.#draining ??= this.#drain();
    });
  }

  /** Adds contents of another engine to a new store. @throws VregError STORE_FULL, STORE_FAILED */
  async fill(part: Filling): Promise<void> {
    await this.#worker.ask({ kind: 'fill', part }).catch(failTo(WRITE));
  }

  async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    try {
      for (const batch of batchesOf(heartbeats)) {
        await this.#worker.ask({ kind: 'stageHeartbeats', batch });
        // The replies to many batches can arrive in one turn.
        await nextTurn();
      }
      await this.#worker.ask({ kind: 'saveHeartbeats', listened, records });
    } catch (error) {
      failTo(WRITE)(error);
    }
  }

  async tryWrite(): Promise<void> {
    await this.#worker.ask({ kind: 'tryWrite' }).catch(failTo(WRITE));
  }

  async read(): Promise<void> {
    await this.#worker.ask({ kind: 'read' }).catch(failTo(READ));
  }

  async size(): Promise<number | undefined> {
    const files = [this.#dir.database, this.#dir.log];
    const found = await Promise.all(files.map((path) => stat(path).catch(() => undefined)));
    return found[0] && found.reduce((sum, file) => sum + (file?.size ?? 0), 0);
  }

  async history(id: string, limit: number, before?: number): Promise<JournalItem[]> {
    const request: Request = { kind: 'history', id, limit, before };
    return (await this.#worker.ask(request).catch(failTo(READ))) as JournalItem[];
  }

  async lastChanges(after: number, until: number): Promise<LastChange[] | undefined> {
    const request: Request = { kind: 'lastChanges', after, until };
    return (await this.#worker.ask(request).catch(failTo(READ))) as LastChange[] | undefined;
  }

  async backup(path: string, signal?: AbortSignal, onProgress: () => void = () => {}): Promise<void> {
    if (this.#isBackingUp) throw backupInProgress();
    this.#isBackingUp = true;
    const copying = new AbortController();
    let draft: string | undefined;
    try {
      // Write and check the backup under a temporary name, so that a broken one is never mistaken for a valid one.
      draft = mkdtempSync(`${path}.`);
      const dir = openDataDir(draft);
      void watchGrowth(dir.database, onProgress, copying.signal);
      await this.#worker.ask({ kind: 'backup', path: dir.database });
      copying.abort();
      signal?.throwIfAborted();
      const failure = await findFailure(dir);
      if (failure) throw new StoreError(failure);
      renameSync(dir.database, path);
    } catch (error) {
      signal?.throwIfAborted();
      throw toRuntimeError('create a backup', toFailure(error));
    } finally {
      this.#isBackingUp = false;
      copying.abort();
      if (draft !== undefined) rmSync(draft, { recursive: true, force: true });
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#draining;
    await this.#worker.close();
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const group = this.#queue.splice(0, groupSize(this.#queue));
      try {
        await this.#worker.ask({ kind: 'commit', changes: group.flatMap(({ changes }) => changes) });
        for (const { reservation, resolve } of group) {
          reservation.release();
          resolve();
        }
      } catch (error) {
        // The queued changes were validated against the changes that have just failed.
        const failed = [...group, ...this.#queue];
        this.#queue = [];
        for (const { reservation, reject } of failed) {
          reservation.release();
          reject(toRuntimeError(WRITE, toFailure(error)));
        }
      }
    }
    this.#draining = undefined;
  }
}

/** @throws DamageError naming the VM. It does not quote the entry, which may contain secrets */
function decodeVm<V>(vm: StoredVm, decode: (vm: StoredVm) => V): V {
  try {
    return decode(vm);
  } catch {
    throw new DamageError(`the entry of VM ${JSON.stringify(vm.id)} passes its checksum but is malformed`);
  }
}

/**
 * Checks the files in a data dir without modifying them, and reads the database.
 * @returns undefined for a new store
 * @throws VregError
 */
async function loadFiles(dir: DataDir, receiver: ContentsReceiver): Promise<Loaded | undefined> {
  const mark = readHighWaterMark(dir);
  if (databaseSize(dir) > 0) return checkDatabase(dir, receiver);
  if (mark) throw new DamageError(`it is missing or empty, but revision ${mark.revision} was acknowledged`);
  return undefined;
}

/**
 * Opens and closes a store that has passed its check. It then has the write-ahead format and a high-water mark, so that its
 * next start needs no disk space.
 * @param checked the state that the check found
 * @throws VregError STORE_UNUSABLE, STORE_DAMAGED
 */
export async function prepareStore(dir: DataDir, checked: CheckedState): Promise<void> {
  const worker = new WorkerClient(dir, () => {});
  try {
    await worker.open(checked);
    await worker.close();
  } catch (error) {
    await worker.terminate();
    throw toOpenError(dir, toFailure(error));
  }
}

/** @returns the number of queue items for the next transaction: at least one, even if it is too large */
function groupSize(queue: readonly Waiting[]): number {
  let count = 0;
  let changes = 0;
  for (let size = 0; count < queue.length; count++) {
    changes += queue[count]!.changes.length;
    size += queue[count]!.size;
    if (changes > MAX_GROUP || size > MAX_GROUP_SIZE) break;
  }
  return Math.max(1, count);
}

/** Converts a failure of the worker to an error for the caller. */
function failTo(action: string): (error: unknown) => never {
  return (error) => {
    throw toRuntimeError(action, toFailure(error));
  };
}

/** A request to which the worker has not replied yet. */
type Pending = Pick<Waiting, 'reject'> & { resolve(value: unknown): void };

/**
 * Sends requests to the worker and waits for its replies. A worker without requests does not keep the process alive, so the
 * process also ends if the start fails after the store was opened.
 */
class WorkerClient {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #seq = 0;
  #isEnding = false;
  /** The error message if the worker has ended. */
  #end: string | undefined;

  constructor(dir: DataDir, onDeath: (error: Error) => void) {
    this.#worker = startWorker(dir);
    this.#worker.on('message', (reply: Reply) => {
      const pending = this.#pending.get(reply.seq);
      this.#forget(reply.seq);
      if ('failure' in reply) pending?.reject(new StoreError(reply.failure));
      else pending?.resolve(reply.value);
    });
    let fault: Error | undefined;
    this.#worker.on('error', (error) => (fault = error));
    this.#worker.on('exit', () => {
      const message = `the worker of the store ended${fault ? `: ${fault.message}` : ''}`;
      this.#end = message;
      for (const { reject } of this.#pending.values()) reject(new StoreError({ kind: 'other', message }));
      this.#pending.clear();
      if (!this.#isEnding) onDeath(new Error(message, { cause: fault }));
    });
  }

  /** @returns the contents of a new store */
  async open(checked: CheckedState | undefined): Promise<Contents | undefined> {
    return (await this.ask(checked ? { kind: 'open', checked } : { kind: 'open' })) as Contents | undefined;
  }

  ask(request: Message): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#end !== undefined) return reject(new StoreError({ kind: 'other', message: this.#end }));
      const seq = ++this.#seq;
      this.#pending.set(seq, { resolve, reject });
      this.#worker.ref();
      this.#worker.postMessage({ seq, request });
    });
  }

  #forget(seq: number): void {
    this.#pending.delete(seq);
    if (this.#pending.size === 0 && !this.#isEnding) this.#worker.unref();
  }

  async close(): Promise<void> {
    this.#isEnding = true;
    try {
      await this.ask({ kind: 'close' });
    } finally {
      await this.#worker.terminate();
    }
  }

  async terminate(): Promise<void> {
    this.#isEnding = true;
    this.#worker.ref();
    await this.#worker.terminate();
  }
}
