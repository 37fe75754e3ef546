/** Who was heard since beats were last made durable. */
import type { Store, StoredHeartbeat } from '../store/store.ts';
import type { PendingRecords } from './pending.ts';
import type { VmRecord } from './vm-record.ts';

export class Unsaved {
  readonly #store: Store;
  /** Saved with the beats. */
  readonly #pending: PendingRecords;
  readonly #heard = new Set<VmRecord>();

  constructor(store: Store, pending: PendingRecords) {
    this.#store = store;
    this.#pending = pending;
  }

  get any(): boolean {
    return this.#heard.size > 0 || this.#pending.any;
  }

  add(entry: VmRecord): void {
    this.#heard.add(entry);
  }

  delete(entry: VmRecord): void {
    this.#heard.delete(entry);
  }

  /**
   * Saves them; on failure they stay due for the next time.
   * @param listened milliseconds on the listening clock
   * @param isCurrent false of an entry that was replaced or removed
   */
  async save(listened: number, isCurrent: (entry: VmRecord) => boolean): Promise<void> {
    const entries = [...this.#heard].filter(isCurrent);
    this.#heard.clear();
    const records = this.#pending.take();
    const beats: StoredHeartbeat[] = entries.map((entry) => ({ id: entry.vm.id, ...entry.life }));
    try {
      await this.#store.saveHeartbeats(beats, listened, records.changes);
      records.saved();
    } catch (error) {
      for (const entry of entries) if (isCurrent(entry)) this.#heard.add(entry);
      records.putBack();
      throw error;
    }
  }
}
