/**
 * Writes the records that are not part of a change. Each is written only if the store still has the revision that this replica
 * knows, so a replica that lags never undoes what another one has written.
 */
import type { RecordChange } from '../store.ts';
import { EtcdError } from './etcd-error.ts';
import { type EtcdKeys, encodeValue } from './etcd-keys.ts';
import type { Informer } from './informer.ts';
import type { Compare, Op } from './messages.ts';
import type { Transactions } from './transaction.ts';

/** Records per transaction. etcd accepts 128 operations by default. */
const MAX_RECORDS = 50;
/**
 * Milliseconds between two flushes of identities and last uses of tokens. Each heartbeat of an agent changes its identity. If a
 * replica dies, the registry has lost some, which it recognizes by their numbers.
 */
const DEFERRED_INTERVAL = 60_000;

export class RecordWriter {
  readonly #transactions: Transactions;
  readonly #keys: EtcdKeys;
  readonly #informer: Informer;
  readonly #mark: () => { key: string; write: string };
  readonly #now: () => number;
  /** Records that this replica has written, until the view has them. `modRevision` is 0 for a removed one. */
  readonly #ahead = new Map<string, { modRevision: number; at: number }>();
  readonly #deferred = new Map<string, RecordChange>();
  #flushedAt: number;

  /** @param mark key and value that identify a transaction as one of this replica */
  constructor(
    transactions: Transactions,
    keys: EtcdKeys,
    informer: Informer,
    mark: () => { key: string; write: string },
    now: () => number = () => performance.now(),
  ) {
    this.#transactions = transactions;
    this.#keys = keys;
    this.#informer = informer;
    this.#mark = mark;
    this.#now = now;
    this.#flushedAt = now();
  }

  /** The revision of a record as far as this replica knows; 0 if it is absent. */
  revisionOf(key: string): number {
    return this.#ahead.get(key)?.modRevision ?? this.#informer.revisionOf(key);
  }

  /** This replica has written records with a change. */
  written(records: readonly RecordChange[], revision: number): void {
    for (const record of records) {
      const key = this.#keys.record(record);
      this.#deferred.delete(key);
      this.#advance(key, record, revision);
    }
  }

  #advance(key: string, { body }: RecordChange, revision: number): void {
    if (this.#informer.revision >= revision) return;
    this.#ahead.set(key, { modRevision: body === undefined ? 0 : revision, at: revision });
  }

  /** The view has a revision of a record. */
  seen(key: string, revision: number): void {
    const ahead = this.#ahead.get(key);
    if (ahead && ahead.at <= revision) this.#ahead.delete(key);
  }

  /**
   * Writes records now, except for those that other replicas rarely need. Removals come first, because they need no space.
   * @throws EtcdError; those that could not be written must be saved again
   */
  async save(records: readonly RecordChange[]): Promise<void> {
    const urgent: RecordChange[] = [];
    for (const record of records) {
      const { kind, body } = record;
      // The time that is left to a suspect VM is on the listening clock of one replica.
      if (kind === 'lease' || body === undefined) continue;
      if (kind === 'identity' || kind === 'token') this.#deferred.set(this.#keys.record(record), record);
      else urgent.push(record);
    }
    await this.remove(records.filter(({ kind, body }) => kind !== 'lease' && body === undefined));
    if (urgent.length > 0) await this.#write(urgent);
    if (this.#now() - this.#flushedAt >= DEFERRED_INTERVAL) await this.flush();
  }

  /** Removes records now, also while etcd has no space. @throws EtcdError */
  async remove(records: readonly RecordChange[]): Promise<void> {
    const known = records.filter((record) => {
      const key = this.#keys.record(record);
      this.#deferred.delete(key);
      return this.revisionOf(key) > 0;
    });
    if (known.length > 0) await this.#write(known);
  }

  /** Writes only the mark. @throws EtcdError */
  async tryWrite(): Promise<void> {
    await this.#commit([]);
  }

  /** Writes a record with the next {@link flush}. */
  defer(record: RecordChange): void {
    this.#deferred.set(this.#keys.record(record), record);
  }

  /**
   * Writes an identity that another replica has asked for, and removes the request.
   * @param record undefined if there is none
   * @throws EtcdError
   */
  async handOver(record: RecordChange | undefined, request: string): Promise<void> {
    const removal: Op = { type: 'delete', key: request };
    if (record && (await this.#commit([record], [removal]))) this.#deferred.delete(this.#keys.record(record));
    else await this.#commit([], [removal]);
  }

  /** Writes a record now. @returns false if the store has another revision of it, which has arrived then @throws EtcdError */
  async claim(record: RecordChange): Promise<boolean> {
    const key = this.#keys.record(record);
    if (await this.#commit([record])) {
      this.#deferred.delete(key);
      return true;
    }
    await this.#transactions.barrier();
    return false;
  }

  /** Writes the deferred records. @throws EtcdError; they remain deferred then */
  async flush(): Promise<void> {
    this.#flushedAt = this.#now();
    const records = [...this.#deferred.values()];
    await this.#write(records);
  }

  async #write(records: readonly RecordChange[]): Promise<void> {
    for (let at = 0; at < records.length; at += MAX_RECORDS) {
      const batch = records.slice(at, at + MAX_RECORDS);
      if (await this.#commit(batch)) continue;
      // Another replica has written one of them. Its record arrives, and replaces the one of this replica.
      for (const record of batch) await this.#commit([record]);
    }
    for (const record of records) {
      const key = this.#keys.record(record);
      if (this.#deferred.get(key) === record) this.#deferred.delete(key);
    }
  }

  /** @returns false if the store has another revision of one of the records */
  async #commit(records: readonly RecordChange[], more: readonly Op[] = []): Promise<boolean> {
    const { key: mark, write } = this.#mark();
    const compares: Compare[] = [];
    const putMark: Op = { type: 'put', key: mark, value: encodeValue({ w: write }, '') };
    const success: Op[] = [...more];
    for (const record of records) {
      const key = this.#keys.record(record);
      compares.push({ key, modRevision: this.revisionOf(key) });
      if (record.body === undefined) success.push({ type: 'delete', key });
      else success.push({ type: 'put', key, value: encodeValue({ w: write }, record.body) });
    }
    const isRemoval = more.length === 0 && records.length > 0 && records.every(({ body }) => body === undefined);
    const outcome = await this.#transactions.commit({ compares, success: [putMark, ...success] }).catch((error) => {
      if (!isRemoval || !(error instanceof EtcdError) || error.kind !== 'no-space') throw error;
      // Without the mark, which needs space. The removal then counts as that of another replica, with the same effect.
      return this.#transactions.commit({ compares, success });
    });
    if (!outcome.applied) return false;
    for (const record of records) this.#advance(this.#keys.record(record), record, outcome.revision);
    return true;
  }
}
