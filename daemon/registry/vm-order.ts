/**
 * VMs in the order of their registration. They are stored in blocks, so that a change takes the same time and invalidates the
 * same small part of cached lists in a fleet of any size.
 */
import type { VmRecord } from './vm-record.ts';
import { Part, Snapshot } from './vm-snapshot.ts';

/**
 * Maximum number of VMs in a block. Measured with 100,000 VMs: a change encodes one block anew (0.2 ms with 256 VMs), and an
 * answer refers to each block.
 */
const MAX_VMS = 256;
/** Maximum size of a block of more than one VM in bytes of JSON: that of 256 usual entries. */
const MAX_BYTES = 131_072;

/** `all`: all VMs, newest registration first. `live`: those that `discover` returns, oldest registration first. */
type View = 'all' | 'live';

/** VMs, oldest registration first, and their cached parts. {@link splice} is the only way to change the VMs. */
class Block {
  readonly #entries: VmRecord[] = [];
  readonly #parts: { [view in View]?: Part | undefined } = {};
  #bytes = 0;

  constructor(entries: readonly VmRecord[]) {
    this.splice(0, 0, entries);
  }

  get entries(): readonly VmRecord[] {
    return this.#entries;
  }

  /** Bytes of the entries' JSON. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Replaces VMs, and retires the parts. @returns the VMs that were removed */
  splice(start: number, deleteCount: number, added: readonly VmRecord[]): VmRecord[] {
    const removed = this.#entries.splice(start, deleteCount, ...added);
    this.#bytes += sizeOf(added) - sizeOf(removed);
    this.retire();
    return removed;
  }

  /** The part of a view, cached until the next change. @param isLive called only after a change */
  part(view: View, isLive: (entry: VmRecord) => boolean): Part {
    const entries = () => (view === 'all' ? this.#entries.toReversed() : this.#entries.filter(isLive));
    this.#parts[view] ??= new Part(entries());
    return this.#parts[view];
  }

  /** Discards the parts after a change to a VM. */
  retire(): void {
    const { all, live } = this.#parts;
    all?.retire();
    live?.retire();
    this.#parts.all = undefined;
    this.#parts.live = undefined;
  }

  /** As {@link Part.limit}. */
  limit(now: number, room: number): number {
    const left = this.#parts.all?.limit(now, room) ?? room;
    return this.#parts.live?.limit(now, left) ?? left;
  }
}

export class VmOrder {
  /** None is empty. */
  readonly #blocks: Block[] = [];
  readonly #moment: () => string;
  readonly #snapshots: { [view in View]?: Snapshot | undefined } = {};
  #size = 0;
  /** Number of changes to membership, declared fields, liveness and health. */
  #generation = 0;
  #stamp: string | undefined;

  /**
   * @param moment called for the first stamp after a change. It distinguishes two copies of this process, such as a VM and its
   * clone, that have counted as many changes
   */
  constructor(moment: () => string) {
    this.#moment = moment;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * A text that changes with the membership, the declared fields, and the liveness and health of the VMs as far as
   * {@link invalidate} has reported them.
   */
  get stamp(): string {
    this.#stamp ??= `${this.#generation} ${this.#moment()}`;
    return this.#stamp;
  }

  *[Symbol.iterator](): Iterator<VmRecord> {
    for (const { entries } of this.#blocks) yield* entries;
  }

  /** Adds a VM, or replaces the one with the same registration. */
  put(entry: VmRecord): void {
    const { created } = entry.version;
    const at = Math.min(this.#find(created), Math.max(0, this.#blocks.length - 1));
    const block = this.#blocks[at];
    this.#changed();
    if (block === undefined) {
      this.#blocks.push(new Block([entry]));
      this.#size++;
      return;
    }
    const index = lowerBound(block.entries, created);
    const before = block.entries[index];
    const isKnown = before?.version.created === created;
    const isNewest = at === this.#blocks.length - 1 && index === block.entries.length;
    if (!isKnown) this.#size++;
    if (isNewest && isFull(block.entries.length + 1, block.bytes + entry.size)) {
      this.#blocks.push(new Block([entry]));
      return;
    }
    block.splice(index, isKnown ? 1 : 0, [entry]);
    if (isFull(block.entries.length, block.bytes)) this.#split(at);
  }

  /** Removes the VM with this registration, if there is one. */
  remove({ version: { created } }: VmRecord): void {
    const at = this.#find(created);
    const block = this.#blocks[at];
    if (block === undefined) return;
    const index = lowerBound(block.entries, created);
    if (block.entries[index]?.version.created !== created) return;
    block.splice(index, 1, []);
    this.#size--;
    this.#changed();
    if (block.entries.length === 0) this.#blocks.splice(at, 1);
    else {
      this.#merge(at);
      this.#merge(at - 1);
    }
  }

  /** Invalidates the cached lists and the stamps with a VM whose liveness or health has changed. */
  invalidate({ version: { created } }: VmRecord): void {
    const block = this.#blocks[this.#find(created)];
    if (block === undefined) return;
    block.retire();
    this.#changed();
  }

  /**
   * The VMs of a view at this moment, shared by all readers until the next change.
   * @param isLive called only for VMs that have changed since the last call
   */
  snapshot(view: View, isLive: (entry: VmRecord) => boolean): Snapshot {
    let snapshot = this.#snapshots[view];
    if (snapshot === undefined) {
      const parts = this.#blocks.map((block) => block.part(view, isLive));
      snapshot = new Snapshot(view === 'all' ? parts.reverse() : parts, this.stamp);
      this.#snapshots[view] = snapshot;
    }
    return snapshot;
  }

  /** As {@link Part.limit}, for the parts of all lists. */
  limit(now: number, room: number): number {
    return this.#blocks.reduce((left, block) => block.limit(now, left), room);
  }

  /** VMs with an earlier registration, newest first. @param before revision of a registration; it need not exist any more */
  *registeredBefore(before: number): Generator<VmRecord> {
    for (let at = Math.min(this.#find(before), this.#blocks.length - 1); at >= 0; at--) {
      const { entries } = this.#blocks[at]!;
      for (let index = lowerBound(entries, before) - 1; index >= 0; index--) yield entries[index]!;
    }
  }

  #changed(): void {
    this.#generation++;
    this.#stamp = undefined;
    this.#snapshots.all = undefined;
    this.#snapshots.live = undefined;
  }

  /** Index of the first block whose newest VM is not older than this registration; the number of blocks if there is none. */
  #find(created: number): number {
    return firstIndex(this.#blocks.length, (at) => this.#blocks[at]!.entries.at(-1)!.version.created >= created);
  }

  #split(at: number): void {
    const block = this.#blocks[at]!;
    const middle = Math.ceil(block.entries.length / 2);
    const newer = block.splice(middle, block.entries.length - middle, []);
    this.#blocks.splice(at + 1, 0, new Block(newer));
  }

  /** Merges a block with its neighbor if both are small, so that a fleet that has shrunk does not leave many small blocks. */
  #merge(at: number): void {
    const [block, next] = [this.#blocks[at], this.#blocks[at + 1]];
    if (block === undefined || next === undefined) return;
    const count = block.entries.length + next.entries.length;
    if (isFull(2 * count, 2 * (block.bytes + next.bytes))) return;
    block.splice(block.entries.length, 0, next.entries);
    next.retire();
    this.#blocks.splice(at + 1, 1);
  }
}

function isFull(count: number, bytes: number): boolean {
  return count > 1 && (count > MAX_VMS || bytes > MAX_BYTES);
}

function sizeOf(entries: readonly VmRecord[]): number {
  return entries.reduce((sum, { size }) => sum + size, 0);
}

/** Index of the first VM that was not registered before. */
function lowerBound(entries: readonly VmRecord[], created: number): number {
  return firstIndex(entries.length, (index) => entries[index]!.version.created >= created);
}

/** The first index for which a condition holds, and then for all later ones. `length` if there is none. */
function firstIndex(length: number, isReached: (index: number) => boolean): number {
  let [from, to] = [0, length];
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (isReached(middle)) to = middle;
    else from = middle + 1;
  }
  return from;
}
