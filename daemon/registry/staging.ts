/**
 * What is decided and on its way to the disk. The next decision is made on it, though no reader sees it yet; when the
 * store refuses one change, all that was decided since falls with it.
 */
import type { Change, Store } from '../store/store.ts';
import type { VmRecord } from './vm-record.ts';

export class Staging {
  readonly #store: Store;
  /** Newest decision per id; one without an entry is a removal. */
  readonly #decisions = new Map<string, { entry: VmRecord | undefined }>();
  /** Revision of the last change that is on the disk, and of the last that was decided. */
  #durable: number;
  #decided: number;
  #added = 0;
  #growth = 0;
  /** Grows when decisions are thrown away, so that a late failure cannot throw away newer ones. */
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

  /** VMs that are on their way to be there. */
  get added(): number {
    return this.#added;
  }

  /** {@link VmRecord.weight} of entries that are on their way to be there, less that of those that go with them. */
  get growth(): number {
    return this.#growth;
  }

  /** The newest decision about a VM that is not on the disk yet. */
  of(id: string): { entry: VmRecord | undefined } | undefined {
    return this.#decisions.get(id);
  }

  /**
   * Resolves when the change, which must have the {@link next} revision, is durable.
   * @param before the entry that it changes
   * @throws the store's errors
   */
  async commit(id: string, entry: VmRecord | undefined, change: Change, before: VmRecord | undefined): Promise<void> {
    const generation = this.#generation;
    // Throws when the store takes no more; then nothing is staged, and what was staged before goes on.
    const durable = this.#store.commit(change);
    const decision = { entry };
    const isNew = entry !== undefined && entry.version.created === entry.version.revision;
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
