/**
 * Who was heard when, in the order of the last sign of life, so that a sweep looks only at those whose lease has run
 * out and never at the whole fleet.
 */
import type { Entry } from './entry.ts';

export class Leases {
  /** Entries that are not stale as of the last sweep, longest silent first. */
  readonly #fresh = new Map<string, Entry>();
  /** Ids of those that are. */
  readonly #stale = new Set<string>();

  /** Takes the entries in at the start, and says nothing of those that are stale already. */
  load(entries: Iterable<Entry>, horizon: number): void {
    for (const entry of [...entries].sort((a, b) => a.life.heardAt - b.life.heardAt)) {
      if (entry.life.heardAt < horizon) this.#stale.add(entry.vm.id);
      else this.#fresh.set(entry.vm.id, entry);
    }
  }

  /** @returns true when the VM was stale until now */
  heard(entry: Entry): boolean {
    const { id } = entry.vm;
    // Deleted first, since setting a key that is there would leave it in its old place.
    this.#fresh.delete(id);
    this.#fresh.set(id, entry);
    return this.#stale.delete(id);
  }

  /** An entry that replaces the one of its id without a sign of life keeps that one's place. */
  replace(entry: Entry): void {
    if (this.#fresh.has(entry.vm.id)) this.#fresh.set(entry.vm.id, entry);
  }

  forget(id: string): void {
    this.#fresh.delete(id);
    this.#stale.delete(id);
  }

  /** @returns those that were last heard before `horizon` and were not stale at the last sweep */
  sweep(horizon: number): Entry[] {
    const gone: Entry[] = [];
    for (const entry of this.#fresh.values()) {
      if (entry.life.heardAt >= horizon) break;
      gone.push(entry);
    }
    for (const { vm } of gone) {
      this.#fresh.delete(vm.id);
      this.#stale.add(vm.id);
    }
    return gone;
  }
}
