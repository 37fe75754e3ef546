/** Who was heard since beats were last made durable. */
import type { Beat, RecordChange, Store } from '../store/store.ts';
import type { Entry } from './entry.ts';

/** What else is saved with the beats. */
export interface Companion {
  readonly isDirty: boolean;
  /** Takes what is to be saved, and gives back what puts it there again. */
  takeDirty(): { changes: readonly RecordChange[]; putBack(): void };
}

export class Unsaved {
  readonly #store: Store;
  readonly #companion: Companion;
  readonly #heard = new Set<Entry>();

  constructor(store: Store, companion: Companion) {
    this.#store = store;
    this.#companion = companion;
  }

  get any(): boolean {
    return this.#heard.size > 0 || this.#companion.isDirty;
  }

  add(entry: Entry): void {
    this.#heard.add(entry);
  }

  delete(entry: Entry): void {
    this.#heard.delete(entry);
  }

  /**
   * Saves them; on failure they stay due for the next time.
   * @param listened milliseconds on the listening clock
   * @param isCurrent false of an entry that was replaced or removed
   */
  async save(listened: number, isCurrent: (entry: Entry) => boolean): Promise<void> {
    const entries = [...this.#heard].filter(isCurrent);
    this.#heard.clear();
    const { changes, putBack } = this.#companion.takeDirty();
    const beats: Beat[] = entries.map((entry) => ({ id: entry.vm.id, ...entry.life }));
    try {
      await this.#store.saveBeats(beats, listened, changes);
    } catch (error) {
      for (const entry of entries) if (isCurrent(entry)) this.#heard.add(entry);
      putBack();
      throw error;
    }
  }
}
