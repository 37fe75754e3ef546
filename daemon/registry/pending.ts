/** Records that wait to be saved with the next beats: the newest of each. */
import type { RecordChange } from '../store/store.ts';

export class PendingRecords {
  readonly #changes = new Map<string, RecordChange>();

  get any(): boolean {
    return this.#changes.size > 0;
  }

  add(change: RecordChange): void {
    this.#changes.set(`${change.kind} ${change.key}`, change);
  }

  /** Takes what is to be saved, and gives back what puts it there again. */
  take(): { changes: readonly RecordChange[]; putBack(): void } {
    const taken = [...this.#changes];
    this.#changes.clear();
    const putBack = () => {
      // What was added since is newer.
      for (const [key, change] of taken) if (!this.#changes.has(key)) this.#changes.set(key, change);
    };
    return { changes: taken.map(([, change]) => change), putBack };
  }
}
