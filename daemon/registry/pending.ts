/** Records that wait to be saved with the next beats: the newest of each, whatever becomes of an earlier save. */
import type { RecordChange } from '../store/store.ts';

type Key = Pick<RecordChange, 'kind' | 'key'>;

export interface Taken {
  changes: readonly RecordChange[];
  /** They are on the disk. */
  saved(): void;
  /** They are not: those that are still the newest wait again. */
  putBack(): void;
}

export class PendingRecords {
  readonly #waiting = new Map<string, RecordChange>();
  /** Those that wait and those that are on their way. */
  readonly #newest = new Map<string, RecordChange>();

  get any(): boolean {
    return this.#waiting.size > 0;
  }

  add(change: RecordChange): void {
    this.#waiting.set(keyOf(change), change);
    this.#newest.set(keyOf(change), change);
  }

  /** A change of the registry carries this record: what waited is old. */
  drop(record: Key): void {
    this.#waiting.delete(keyOf(record));
    this.#newest.delete(keyOf(record));
  }

  /** Takes all of them, to be saved. */
  take(): Taken {
    const taken = [...this.#waiting];
    this.#waiting.clear();
    const each = (act: (key: string, change: RecordChange) => void) => () => {
      for (const [key, change] of taken) if (this.#newest.get(key) === change) act(key, change);
    };
    return {
      changes: taken.map(([, change]) => change),
      saved: each((key) => this.#newest.delete(key)),
      putBack: each((key, change) => this.#waiting.set(key, change)),
    };
  }
}

function keyOf({ kind, key }: Key): string {
  return `${kind} ${key}`;
}
