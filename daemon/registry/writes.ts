/** Everything that is not durable yet: changes in a group commit, and the heartbeats and records of the next save. */
import type { Change, RecordChange, Store, StoredHeartbeat } from '../store/store.ts';
import type { VmRecord } from './vm-record.ts';

/** Records that are committed in one transaction with a change of a VM, such as the VM's own token. */
export interface Attachment {
  records: readonly RecordChange[];
  /** Called when the transaction is durable, right before the change becomes visible. */
  committed(): void;
  /** Called when the transaction has failed or was never started. */
  failed(): void;
}

/**
 * Changes that were decided and are on their way to the disk. Further decisions build on them, although no reader sees them
 * yet. When the store fails one change, it fails all later ones with it.
 */
export class PendingChanges {
  readonly #store: Store;
  /** The newest pending decision per id; a decision without an entry is a removal. */
  readonly #decisions = new Map<string, { entry: VmRecord | undefined }>();
  /** Revision of the last durable change. */
  #durable: number;
  /** Revision of the last decided change. */
  #decided: number;
  #added = 0;
  #growth = 0;
  /** Incremented when decisions are discarded, so that a late failure does not discard newer ones. */
  #generation = 0;

  constructor(store: Store, revision: number) {
    this.#store = store;
    this.#durable = revision;
    this.#decided = revision;
  }

  /** Revision of the next change. */
  get next(): number {
    return this.#decided + 1;
  }

  /** Number of new VMs in pending changes. */
  get added(): number {
    return this.#added;
  }

  /** Sum of {@link VmRecord.weight} that pending changes add, or remove if negative. */
  get growth(): number {
    return this.#growth;
  }

  /** The newest pending decision about a VM. */
  of(id: string): { entry: VmRecord | undefined } | undefined {
    return this.#decisions.get(id);
  }

  /**
   * Resolves when the change, which must have the {@link next} revision, is durable.
   * @param before the entry that the change replaces or removes
   * @throws the store's errors
   */
  async commit(id: string, entry: VmRecord | undefined, change: Change, before: VmRecord | undefined): Promise<void> {
    const generation = this.#generation;
    // If the store's queue is full, this throws before anything is staged, and earlier pending changes are not affected.
    const durable = this.#store.commit(change);
    const decision = { entry };
    const isNew = entry !== undefined && before === undefined;
    if (isNew) this.#added++;
    const growth = (entry?.weight ?? 0) - (before?.weight ?? 0);
    this.#growth += growth;
    this.#decisions.set(id, decision);
    this.#decided = change.revision;
    try {
      await durable;
    } catch (error) {
      if (generation === this.#generation) {
        this.#generation++;
        this.#decisions.clear();
        this.#decided = this.#durable;
      }
      throw error;
    } finally {
      if (isNew) this.#added--;
      this.#growth -= growth;
    }
    this.#durable = change.revision;
    if (this.#decisions.get(id) === decision) this.#decisions.delete(id);
  }
}

/**
 * Record changes that are saved with the next heartbeats, and again with every save until they are durable. Only the newest
 * change of each record is retained.
 */
export class RecordQueue {
  readonly #unsaved = new Map<string, RecordChange>();

  get isEmpty(): boolean {
    return this.#unsaved.size === 0;
  }

  add(change: RecordChange): void {
    this.#unsaved.set(keyOf(change), change);
  }

  /** Drops the queued change of a record, because a commit in flight carries a newer one. */
  drop(record: Pick<RecordChange, 'kind' | 'key'>): void {
    this.#unsaved.delete(keyOf(record));
  }

  get changes(): readonly RecordChange[] {
    return [...this.#unsaved.values()];
  }

  /** Removes changes that have become durable, except where a newer change of the record was queued meanwhile. */
  saved(changes: readonly RecordChange[]): void {
    for (const change of changes) if (this.#unsaved.get(keyOf(change)) === change) this.drop(change);
  }
}

/** VMs with heartbeats that are not durable yet, and the records that are saved with them. */
export class HeartbeatBuffer {
  readonly #store: Store;
  readonly records = new RecordQueue();
  readonly #heard = new Set<VmRecord>();

  constructor(store: Store) {
    this.#store = store;
  }

  get isEmpty(): boolean {
    return this.#heard.size === 0 && this.records.isEmpty;
  }

  add(entry: VmRecord): void {
    this.#heard.add(entry);
  }

  delete(entry: VmRecord): void {
    this.#heard.delete(entry);
  }

  /**
   * Makes everything in the buffer durable. After a failure all of it stays for the next save.
   * @param listened milliseconds on the listening clock
   * @param isCurrent false for an entry that was replaced or removed
   * @throws the store's errors
   */
  async save(listened: number, isCurrent: (entry: VmRecord) => boolean): Promise<void> {
    const entries = [...this.#heard].filter(isCurrent);
    this.#heard.clear();
    const { changes } = this.records;
    const heartbeats: StoredHeartbeat[] = entries.map((entry) => ({ id: entry.vm.id, ...entry.seen }));
    try {
      await this.#store.saveHeartbeats(heartbeats, listened, changes);
    } catch (error) {
      for (const entry of entries) if (isCurrent(entry)) this.#heard.add(entry);
      throw error;
    }
    this.records.saved(changes);
  }
}

function keyOf({ kind, key }: Pick<RecordChange, 'kind' | 'key'>): string {
  return `${kind} ${key}`;
}
