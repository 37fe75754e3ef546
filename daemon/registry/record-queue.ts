/**
 * Record changes that are saved with the next heartbeats, and with every further save until they are durable. Only the newest
 * change to each record is retained.
 */
import type { RecordChange } from '../store/store.ts';

export class RecordQueue {
  readonly #unsaved = new Map<string, RecordChange>();

  get isEmpty(): boolean {
    return this.#unsaved.size === 0;
  }

  add(change: RecordChange): void {
    this.#unsaved.set(keyOf(change), change);
  }

  /** Drops the queued change to a record, because a commit in progress contains a newer one. @returns the dropped change */
  drop(record: Pick<RecordChange, 'kind' | 'key'>): RecordChange | undefined {
    const key = keyOf(record);
    const dropped = this.#unsaved.get(key);
    this.#unsaved.delete(key);
    return dropped;
  }

  get changes(): readonly RecordChange[] {
    return [...this.#unsaved.values()];
  }

  /** Removes changes that have become durable, unless a newer change to the record was queued in the meantime. */
  saved(changes: readonly RecordChange[]): void {
    for (const change of changes) if (this.#unsaved.get(keyOf(change)) === change) this.drop(change);
  }
}

function keyOf({ kind, key }: Pick<RecordChange, 'kind' | 'key'>): string {
  return `${kind} ${key}`;
}
