/** The committed VMs, indexed by id, by role and by parent, each index in the order of registration. */
import { VregError } from '../../src/protocol/errors.ts';
import { notFound } from './preconditions.ts';
import { VmOrder } from './vm-order.ts';
import type { VmRecord } from './vm-record.ts';
import type { Snapshot } from './vm-snapshot.ts';

export interface Filter {
  role?: string | undefined;
  status?: string | undefined;
  /** Only VMs with this parent, whether or not the parent is registered. */
  parentId?: string | undefined;
}

export class VmIndex {
  readonly #entries = new Map<string, VmRecord>();
  #bytes = 0;
  readonly #moment: () => string;
  readonly #order: VmOrder;
  /** The VMs of a role that no VM has ever had. Clients may ask for any role, so nothing is stored for it. */
  readonly #none: VmOrder;
  readonly #byRole = new Map<string, VmOrder>();
  /** All VMs, newest registration first. Shared by all lists until the next change, because slow clients retain it. */
  #newestFirst: readonly VmRecord[] | undefined;
  readonly lineage = new Lineage((id) => this.#entries.get(id));

  /** @param moment as for {@link VmOrder} */
  constructor(moment: () => string) {
    this.#moment = moment;
    this.#order = new VmOrder(moment);
    this.#none = new VmOrder(moment);
  }

  get(id: string): VmRecord | undefined {
    return this.#entries.get(id);
  }

  /** @throws VregError NOT_FOUND */
  require(id: string): VmRecord {
    const entry = this.#entries.get(id);
    if (!entry) throw notFound();
    return entry;
  }

  /** Revision of the registration of a VM; undefined if it is not registered. */
  registrationOf(id: string): number | undefined {
    return this.#entries.get(id)?.version.created;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Sum of {@link VmRecord.weight}. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Oldest registration first. */
  all(): Iterable<VmRecord> {
    return this.#order;
  }

  /** Adds a VM, or replaces the one with the same id. */
  put(entry: VmRecord): void {
    const { id, role } = entry;
    this.#newestFirst = undefined;
    const before = this.#entries.get(id);
    // A renewed registration moves to the end of the order.
    const isRenewed = before !== undefined && before.version.created !== entry.version.created;
    if (isRenewed) this.#order.remove(before);
    if (before && (isRenewed || before.role !== role)) this.#byRole.get(before.role)?.remove(before);
    this.#entries.set(id, entry);
    this.#order.put(entry);
    const ofRole = this.#byRole.get(role) ?? new VmOrder(this.#moment);
    this.#byRole.set(role, ofRole);
    ofRole.put(entry);
    this.#bytes += entry.weight - (before?.weight ?? 0);
    this.lineage.put(entry, before);
  }

  remove({ id }: VmRecord): void {
    const removed = this.#entries.get(id);
    if (removed === undefined) return;
    this.#newestFirst = undefined;
    this.#entries.delete(id);
    this.#order.remove(removed);
    this.#byRole.get(removed.role)?.remove(removed);
    this.#bytes -= removed.weight;
    this.lineage.remove(removed);
  }

  /** Invalidates the cached lists and the stamps with a VM whose liveness or health has changed. */
  invalidate(entry: VmRecord): void {
    this.#order.invalidate(entry);
    this.#byRole.get(entry.role)?.invalidate(entry);
  }

  /**
   * Frees the JSON of cached lists that were not read for a while, or that exceed the limit.
   * @param now on the listening clock
   * @param maxBytes of all cached lists
   */
  limitCache(now: number, maxBytes: number): void {
    let room = this.#order.limit(now, maxBytes);
    for (const order of this.#byRole.values()) room = order.limit(now, room);
  }

  /** As {@link VmOrder.stamp}, of all VMs or of the VMs with a role. */
  stamp(role: string | undefined): string {
    return this.#ofRole(role).stamp;
  }

  /** VMs, newest registration first. The result is shared by all readers until the next change. */
  snapshot(role: string | undefined): Snapshot {
    return this.#ofRole(role).snapshot('all', () => true);
  }

  /**
   * The live VMs with a role and well-formed entries, oldest registration first. The result is shared by all readers until the
   * next change.
   * @param horizon as for {@link list}. Lists before an earlier horizon are reused: {@link invalidate} invalidates them
   */
  liveSnapshot(role: string, horizon: number): Snapshot {
    return this.#ofRole(role).snapshot('live', (entry) => isLive(entry, horizon));
  }

  /** VMs that were registered before a revision, newest first. */
  registeredBefore(role: string | undefined, revision: number): Iterable<VmRecord> {
    return this.#ofRole(role).registeredBefore(revision);
  }

  /**
   * VMs, newest registration first. The filter `running` omits stale VMs, as in the original registry (vers-agent-services).
   * @param horizon time on the listening clock; a VM whose lease began before it is stale
   */
  list({ role, status, parentId }: Filter, horizon: number): readonly VmRecord[] {
    if (!role && !status && parentId === undefined) {
      this.#newestFirst ??= [...this.#order].reverse();
      return this.#newestFirst;
    }
    const found: VmRecord[] = [];
    for (const entry of this.#candidates(role, parentId)) {
      if (role && entry.role !== role) continue;
      if (status && entry.status !== status) continue;
      if (status === 'running' && entry.leaseFrom < horizon) continue;
      found.push(entry);
    }
    return found.reverse();
  }

  /** The smallest indexed set that contains all VMs with this role and this parent, oldest registration first. */
  #candidates(role: string | undefined, parentId: string | undefined): Iterable<VmRecord> {
    if (parentId !== undefined) return this.lineage.childrenOf(parentId);
    return this.#ofRole(role || undefined);
  }

  /** The live VMs with a role and well-formed entries, oldest registration first. @param horizon as for {@link list} */
  live(role: string, horizon: number): VmRecord[] {
    const found: VmRecord[] = [];
    for (const entry of this.#ofRole(role)) if (isLive(entry, horizon)) found.push(entry);
    return found;
  }

  /** @param role undefined for all VMs */
  #ofRole(role: string | undefined): VmOrder {
    return role === undefined ? this.#order : (this.#byRole.get(role) ?? this.#none);
  }
}

function isLive({ status, leaseFrom, fault }: VmRecord, horizon: number): boolean {
  return status === 'running' && leaseFrom >= horizon && fault === undefined;
}

/** Finds ancestors and descendants of VMs by `parentId`. */
export class Lineage {
  readonly #get: (id: string) => VmRecord | undefined;
  /** Children by the id of the parent, whether or not the parent is registered. */
  readonly #children = new Map<string, Map<string, VmRecord>>();

  constructor(get: (id: string) => VmRecord | undefined) {
    this.#get = get;
  }

  put(entry: VmRecord, before: VmRecord | undefined): void {
    const { id, parentId } = entry;
    if (before && before.parentId !== parentId) this.remove(before);
    if (parentId === undefined) return;
    const siblings = this.#children.get(parentId) ?? new Map<string, VmRecord>();
    this.#children.set(parentId, siblings.set(id, entry));
  }

  remove({ id, parentId }: VmRecord): void {
    if (parentId === undefined) return;
    const siblings = this.#children.get(parentId);
    siblings?.delete(id);
    if (siblings?.size === 0) this.#children.delete(parentId);
  }

  /** Children, oldest registration first. @throws VregError NOT_FOUND if no VM has this id or this parent */
  children(id: string): VmRecord[] {
    if (!this.#children.has(id) && !this.#get(id)) throw noLineage(id);
    return this.childrenOf(id);
  }

  /** Same as {@link children}, but returns none if no VM has this id or this parent. */
  childrenOf(id: string): VmRecord[] {
    const children = this.#children.get(id)?.values() ?? [];
    return [...children].sort((a, b) => a.version.created - b.version.created);
  }

  /** Ancestors, nearest first, up to the first one that is not registered. @throws VregError NOT_FOUND as {@link children} */
  ancestors(id: string): VmRecord[] {
    const self = this.#get(id);
    // The parent of an unregistered VM is unknown.
    if (!self && this.#children.has(id)) return [];
    if (!self) throw noLineage(id);
    const seen = new Set([self]);
    for (let parent = this.#parentOf(self); parent && !seen.has(parent); parent = this.#parentOf(parent))
      seen.add(parent);
    seen.delete(self);
    return [...seen];
  }

  /** The VM itself, if it is registered, and all its descendants, depth first. @throws VregError NOT_FOUND as {@link children} */
  subtree(id: string): VmRecord[] {
    const found = new Map<string, VmRecord | undefined>();
    const pending = [id];
    while (pending.length > 0) {
      const next = pending.pop()!;
      // Clients choose the parents, so they can form a cycle.
      if (found.has(next)) continue;
      found.set(next, this.#get(next));
      for (const child of this.children(next).reverse()) pending.push(child.id);
    }
    return [...found.values()].filter((entry) => entry !== undefined);
  }

  #parentOf({ parentId }: VmRecord): VmRecord | undefined {
    return parentId === undefined ? undefined : this.#get(parentId);
  }
}

function noLineage(id: string): VregError {
  return new VregError('NOT_FOUND', `VM not found: "${id}" is not registered, and no VM has it as its parent`, {
    field: 'id',
  });
}
