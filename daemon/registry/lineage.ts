/** Which VM was made from which: the `parentId` of the entries, read in both directions. */
import { VregError } from '../../src/protocol/errors.ts';
import type { VmRecord } from './vm-record.ts';

export class Lineage {
  readonly #get: (id: string) => VmRecord | undefined;
  /** By the id of the parent, whether it is registered or not; each in the order of registration. */
  readonly #children = new Map<string, Map<string, VmRecord>>();

  constructor(get: (id: string) => VmRecord | undefined) {
    this.#get = get;
  }

  put(entry: VmRecord, before: VmRecord | undefined): void {
    const { id, parentId } = entry.vm;
    if (before && before.vm.parentId !== parentId) this.remove(before);
    if (parentId === undefined) return;
    const siblings = this.#children.get(parentId) ?? new Map<string, VmRecord>();
    this.#children.set(parentId, siblings.set(id, entry));
  }

  remove({ vm }: VmRecord): void {
    if (vm.parentId === undefined) return;
    const siblings = this.#children.get(vm.parentId);
    siblings?.delete(vm.id);
    if (siblings?.size === 0) this.#children.delete(vm.parentId);
  }

  /** Oldest registration first. @throws VregError NOT_FOUND when nobody has, or had, that id */
  children(id: string): VmRecord[] {
    const children = this.#children.get(id);
    if (!children && !this.#get(id)) throw unknown(id);
    return [...(children?.values() ?? [])].sort((a, b) => a.version.created - b.version.created);
  }

  /** Nearest first, as far as they are registered. @throws VregError NOT_FOUND */
  ancestors(id: string): VmRecord[] {
    const self = this.#get(id);
    // Of a parent that is not registered nobody has said where it came from.
    if (!self && this.#children.has(id)) return [];
    if (!self) throw unknown(id);
    const seen = new Set([self]);
    for (let parent = this.#parentOf(self); parent && !seen.has(parent); parent = this.#parentOf(parent))
      seen.add(parent);
    seen.delete(self);
    return [...seen];
  }

  /** The VM itself, if it is registered, and all that came of it, depth first. @throws VregError NOT_FOUND */
  subtree(id: string): VmRecord[] {
    const found = new Map<string, VmRecord | undefined>();
    const waiting = [id];
    while (waiting.length > 0) {
      const next = waiting.pop()!;
      // Entries say whose children they are, so they may say it in a circle.
      if (found.has(next)) continue;
      found.set(next, this.#get(next));
      for (const child of this.children(next).reverse()) waiting.push(child.vm.id);
    }
    return [...found.values()].filter((entry) => entry !== undefined);
  }

  #parentOf({ vm }: VmRecord): VmRecord | undefined {
    return vm.parentId === undefined ? undefined : this.#get(vm.parentId);
  }
}

function unknown(id: string): VregError {
  return new VregError('NOT_FOUND', `VM not found: "${id}" is neither registered nor anybody's parent`, {
    field: 'id',
  });
}
