/** VMs with heartbeats that are not durable yet, and the records that are saved with them. */
import type { Store, StoredHeartbeat } from '../store/store.ts';
import { RecordQueue } from './record-queue.ts';
import type { VmRecord } from './vm-record.ts';

export class HeartbeatBuffer {
  readonly #store: Store;
  readonly records = new RecordQueue();
  /** Token revocations whose commit is in progress or has failed. */
  readonly revocations = new RecordQueue();
  /** May contain records that were deleted from the buffer; {@link VmRecord.isUnsaved} is false for them. */
  #heard: VmRecord[] = [];
  #count = 0;

  constructor(store: Store) {
    this.#store = store;
  }

  get isEmpty(): boolean {
    return this.#count === 0 && this.records.isEmpty && this.revocations.isEmpty;
  }

  add(entry: VmRecord): void {
    if (entry.isUnsaved) return;
    entry.isUnsaved = true;
    this.#count++;
    this.#heard.push(entry);
  }

  delete(entry: VmRecord): void {
    if (!entry.isUnsaved) return;
    entry.isUnsaved = false;
    this.#count--;
  }

  /** Takes records out of the buffer one by one, because the store reads them in slices. */
  *#take(records: readonly VmRecord[]): Generator<StoredHeartbeat> {
    for (const record of records) {
      if (!record.isUnsaved) continue;
      this.delete(record);
      yield { id: record.id, ...record.seen };
    }
  }

  /**
   * Makes the heartbeats and records durable. After a failure, they remain in the buffer for the next save.
   * @param listened milliseconds on the listening clock
   * @param isCurrent false for an entry that was replaced or removed
   * @throws the store's errors
   */
  async save(listened: number, isCurrent: (entry: VmRecord) => boolean): Promise<void> {
    const entries = this.#heard;
    this.#heard = [];
    const { changes } = this.records;
    try {
      await this.#store.saveHeartbeats(this.#take(entries), listened, changes);
    } catch (error) {
      // A VM may have sent another heartbeat during the save. Each is in the buffer once, also after many failures.
      const unsaved = new Set([...entries, ...this.#heard]);
      this.#heard = [];
      for (const entry of unsaved) {
        this.delete(entry);
        if (isCurrent(entry)) this.add(entry);
      }
      throw error;
    }
    this.records.saved(changes);
  }
}
