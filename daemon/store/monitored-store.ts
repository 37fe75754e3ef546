/** Observes a store of any engine, for the probes: whether it can be read, and whether its last writes failed. */
import { VregError } from '../../src/protocol/errors.ts';
import type { Position } from '../../src/protocol/position.ts';
import { Histogram } from '../observability/histogram.ts';
import type {
  Change,
  ForEach,
  JournalItem,
  LastChange,
  RecordChange,
  Replication,
  Store,
  StoredHeartbeat,
} from './store.ts';

/** Milliseconds for which the result of a read counts: anyone may send probes, and each read interrupts the writes. */
const READ_INTERVAL = 1000;

/**
 * Milliseconds between two attempts to write after a change has failed. Clients may send no further change, and saved heartbeats
 * do not prove that a change, which needs more space, can be written.
 */
const TRIAL_INTERVAL = 5000;

/** Errors for which the store is not to blame: it has accepted as much as it can write. */
const OVERLOADED: ReadonlySet<string> = new Set(['BUSY', 'TOO_MANY_REQUESTS']);

export class MonitoredStore implements Store {
  /** Time from the acceptance of a change until it is durable, or has failed. */
  readonly commitSeconds = new Histogram();
  /** Number of changes and saves of heartbeats that failed, except those that were not accepted. */
  writeFailures = 0;
  readonly #store: Store;
  readonly #ticks: () => number;
  /** The read in progress, and the time of its start or of the last progress of a backup, whichever is later. */
  #reading: { done: Promise<void>; since: number } | undefined;
  #readAt = Number.NEGATIVE_INFINITY;
  #readFailure: VregError | undefined;
  #changeFailure: VregError | undefined;
  /** Time of the last failed change or trial. */
  #failedAt = 0;
  #heartbeatFailure: VregError | undefined;

  /** @param ticks a monotonic clock in milliseconds */
  constructor(store: Store, ticks: () => number = () => performance.now()) {
    this.#store = store;
    this.#ticks = ticks;
  }

  /** The failure of the last change or trial, or else of the last save of heartbeats; undefined if the last ones succeeded. */
  get lastWriteFailure(): VregError | undefined {
    return this.#changeFailure ?? this.#heartbeatFailure;
  }

  /** Why writes fail, or would fail if there were any; undefined if they succeed. */
  get writeFailure(): VregError | undefined {
    return this.lastWriteFailure ?? this.#silence;
  }

  /** A shared store that does not respond. */
  get #silence(): VregError | undefined {
    const age = this.replication?.age() ?? 0;
    if (age === 0) return undefined;
    return new VregError('STORE_FAILED', `the store has not responded for ${Math.round(age / 1000)} s`);
  }

  /** Why the last {@link read} failed; undefined if it succeeded. */
  get readFailure(): VregError | undefined {
    return this.#readFailure;
  }

  /**
   * Milliseconds for which a read has been waiting for the store. An embedded store reads nothing while it makes a backup, so they
   * are counted from the last progress of the backup.
   */
  get waiting(): number {
    return this.#reading === undefined ? 0 : this.#ticks() - this.#reading.since;
  }

  /** Reads from the store, unless it did so within the last second. Resolves when {@link readFailure} is up to date. */
  read(): Promise<void> {
    if (this.#reading) return this.#reading.done;
    if (this.#ticks() - this.#readAt < READ_INTERVAL) return Promise.resolve();
    const done = this.#store
      .read()
      .then(
        () => undefined,
        (error: VregError) => error,
      )
      .then((failure) => {
        this.#readFailure = failure;
        this.#readAt = this.#ticks();
        this.#reading = undefined;
      });
    this.#reading = { done, since: this.#ticks() };
    return done;
  }

  get replication(): Replication | undefined {
    return this.#store.replication;
  }

  commit(change: Change): Promise<Position | undefined> {
    return this.#watchChange(this.#store.commit(change));
  }

  commitAll(changes: readonly Change[], forEach: ForEach): Promise<void> {
    return this.#watchChange(this.#store.commitAll(changes, forEach));
  }

  async #watchChange<T>(written: Promise<T>): Promise<T> {
    const started = this.#ticks();
    try {
      const result = await written;
      this.#changeFailure = undefined;
      return result;
    } catch (error) {
      this.#setChangeFailure(this.#failureOf(error) ?? this.#changeFailure);
      throw error;
    } finally {
      this.commitSeconds.observe((this.#ticks() - started) / 1000);
    }
  }

  #setChangeFailure(failure: VregError | undefined): void {
    this.#changeFailure = failure;
    this.#failedAt = this.#ticks();
  }

  /** Saves heartbeats. If a change has failed, also finds out from time to time whether changes can be written again. */
  async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void> {
    try {
      await this.#store.saveHeartbeats(heartbeats, listened, records);
      this.#heartbeatFailure = undefined;
    } catch (error) {
      this.#heartbeatFailure = this.#failureOf(error) ?? this.#heartbeatFailure;
      throw error;
    }
    const failure = this.#changeFailure;
    if (failure && this.#ticks() - this.#failedAt >= TRIAL_INTERVAL) await this.#retryAfter(failure);
  }

  async #retryAfter(failure: VregError): Promise<void> {
    const found = await this.#store.tryWrite().then(
      () => undefined,
      (error: VregError) => error,
    );
    // A change may have failed or succeeded in the meantime.
    if (this.#changeFailure === failure) this.#setChangeFailure(found);
  }

  tryWrite(): Promise<void> {
    return this.#store.tryWrite();
  }

  #failureOf(error: unknown): VregError | undefined {
    if (!(error instanceof VregError) || OVERLOADED.has(error.code)) return undefined;
    this.writeFailures++;
    return error;
  }

  size(): Promise<number | undefined> {
    return this.#store.size();
  }

  history(id: string, limit: number, before?: number): Promise<JournalItem[]> {
    return this.#store.history(id, limit, before);
  }

  lastChanges(after: number, until: number): Promise<LastChange[] | undefined> {
    return this.#store.lastChanges(after, until);
  }

  backup(path: string, signal?: AbortSignal): Promise<void> {
    const onProgress = () => {
      if (this.#reading) this.#reading.since = this.#ticks();
    };
    return this.#store.backup(path, signal, onProgress);
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}
