/** The committed entries, by id and by role, each in the order of registration. */

import { Lineage } from './lineage.ts';
import type { VmRecord } from './vm-record.ts';

export interface Filter {
  role?: string | undefined;
  status?: string | undefined;
}

export class VmIndex {
  /** Oldest registration first: `Map.set` keeps the place of a key that is there, so an update keeps its place. */
  readonly #entries = new Map<string, VmRecord>();
  #bytes = 0;
  /** All, newest registration first, for whoever asks before the next change: slow readers keep it. */
  #newestFirst: readonly VmRecord[] | undefined;
  readonly #byRole = new Map<string, Map<string, VmRecord>>();
  /** Roles that an entry came to from another one: its place there is that of its registration, not the last. */
  readonly #unsorted = new Set<string>();
  readonly lineage = new Lineage((id) => this.#entries.get(id));

  get(id: string): VmRecord | undefined {
    return this.#entries.get(id);
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Of all entries' {@link VmRecord.weight}. */
  get bytes(): number {
    return this.#bytes;
  }

  all(): Iterable<VmRecord> {
    return this.#entries.values();
  }

  /** Adds an entry, or puts it in the place of the one of its id. */
  put(entry: VmRecord): void {
    const { id, role } = entry.vm;
    this.#newestFirst = undefined;
    const before = this.#entries.get(id);
    this.#entries.set(id, entry);
    this.#bytes += entry.weight - (before?.weight ?? 0);
    this.lineage.put(entry, before);
    const ofRole = this.#byRole.get(role) ?? new Map<string, VmRecord>();
    this.#byRole.set(role, ofRole.set(id, entry));
    if (before && before.vm.role !== role) {
      this.#byRole.get(before.vm.role)?.delete(id);
      this.#unsorted.add(role);
    }
  }

  remove({ vm }: VmRecord): void {
    this.#newestFirst = undefined;
    const removed = this.#entries.get(vm.id);
    if (removed) this.lineage.remove(removed);
    this.#bytes -= removed?.weight ?? 0;
    this.#entries.delete(vm.id);
    this.#byRole.get(vm.role)?.delete(vm.id);
  }

  /**
   * Newest registration first. Filtering by `running` leaves stale VMs out, as the original registry does.
   * @param horizon heard before it on the listening clock is stale
   */
  list({ role, status }: Filter, horizon: number): readonly VmRecord[] {
    if (!role && !status) {
      this.#newestFirst ??= [...this.#entries.values()].reverse();
      return this.#newestFirst;
    }
    const source = role ? this.#ofRole(role) : this.#entries.values();
    const found: VmRecord[] = [];
    for (const entry of source) {
      if (status && entry.vm.status !== status) continue;
      if (status === 'running' && entry.leaseFrom < horizon) continue;
      found.push(entry);
    }
    return found.reverse();
  }

  /** The live entries of a role, oldest registration first. */
  live(role: string, horizon: number): VmRecord[] {
    const found: VmRecord[] = [];
    for (const entry of this.#ofRole(role)) {
      if (entry.vm.status === 'running' && entry.leaseFrom >= horizon) found.push(entry);
    }
    return found;
  }

  /** Sorted here and not with each change: a thousand changes of role before the next read cost one sort. */
  #ofRole(role: string): Iterable<VmRecord> {
    const ofRole = this.#byRole.get(role);
    if (!ofRole) return [];
    if (!this.#unsorted.delete(role)) return ofRole.values();
    const sorted = new Map([...ofRole].sort(([, a], [, b]) => a.version.created - b.version.created));
    this.#byRole.set(role, sorted);
    return sorted.values();
  }
}
