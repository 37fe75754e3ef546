/**
 * Signs of life, packed. Each VM has a slot of two float64 numbers, and 256 slots fill one database page (a shard), so a
 * second's beats of a whole fleet are a few page writes instead of a rewritten row a VM.
 */
import type { StoredHeartbeat } from './store.ts';

/** 256 slots of two float64 numbers are 4096 bytes: one database page. */
const SLOTS_PER_SHARD = 256;
const NUMBERS_PER_SHARD = 2 * SLOTS_PER_SHARD;

type Times = Pick<StoredHeartbeat, 'lastSeen' | 'heardAt'>;

/** What to do to take a transaction's steps back, newest last. */
export type Undo = (() => void)[];

export class HeartbeatPages {
  readonly #slots = new Map<string, number>();
  #free: number[] = [];
  #nextSlot = 0;
  readonly #loaded = new Set<number>();
  /** Slot n: `[2n]` is lastSeen, `[2n + 1]` is heardAt. */
  #times = new Float64Array(NUMBERS_PER_SHARD);
  /** Shards written to since the last {@link takeDirty}. */
  readonly #dirty = new Set<number>();

  slotOf(id: string): number | undefined {
    return this.#slots.get(id);
  }

  timesOf(slot: number): Times {
    return { lastSeen: this.#times[2 * slot] ?? 0, heardAt: this.#times[2 * slot + 1] ?? 0 };
  }

  /** Loads a shard as it was stored. */
  loadShard(shard: number, bytes: Buffer): void {
    this.#loaded.add(shard);
    this.#grow(shard * SLOTS_PER_SHARD + SLOTS_PER_SHARD - 1);
    const copy = new Uint8Array(bytes);
    this.#times.set(
      new Float64Array(copy.buffer, 0, Math.min(NUMBERS_PER_SHARD, copy.length / 8)),
      shard * NUMBERS_PER_SHARD,
    );
  }

  /**
   * Loads which VM has which slot; the shards before, and {@link findFree} once all are loaded.
   * @returns false when there are no times for it
   */
  loadSlot(id: string, slot: number): boolean {
    this.#slots.set(id, slot);
    this.#nextSlot = Math.max(this.#nextSlot, slot + 1);
    return this.#loaded.has(shardOf(slot));
  }

  findFree(): void {
    const used = new Set(this.#slots.values());
    this.#free = [];
    for (let slot = 0; slot < this.#nextSlot; slot++) if (!used.has(slot)) this.#free.push(slot);
  }

  /** Gives a VM its slot, or the one that it has. */
  take(id: string, undo: Undo): { slot: number; isNew: boolean } {
    const known = this.#slots.get(id);
    if (known !== undefined) return { slot: known, isNew: false };
    const slot = this.#free.pop() ?? this.#nextSlot++;
    this.#grow(slot);
    this.#slots.set(id, slot);
    undo.push(() => {
      this.#slots.delete(id);
      this.#free.push(slot);
    });
    return { slot, isNew: true };
  }

  /** Takes a VM's slot away. It is free for others only after the transaction: call what this returns then. */
  drop(id: string, undo: Undo): (() => void) | undefined {
    const slot = this.#slots.get(id);
    if (slot === undefined) return undefined;
    this.#slots.delete(id);
    undo.push(() => this.#slots.set(id, slot));
    return () => this.#free.push(slot);
  }

  /** Sets the times of a VM as a change has them. */
  set(slot: number, { lastSeen, heardAt }: Times, undo: Undo): void {
    const before = this.timesOf(slot);
    this.#write(slot, lastSeen, heardAt);
    undo.push(() => this.#write(slot, before.lastSeen, before.heardAt));
  }

  /**
   * Takes in a sign of life, unless a later one is there: a change may have overtaken it on its way. It needs no undo,
   * since what was heard stays heard.
   */
  hear(slot: number, { lastSeen, heardAt }: Times): void {
    if (heardAt >= this.timesOf(slot).heardAt) this.#write(slot, lastSeen, heardAt);
  }

  #write(slot: number, lastSeen: number, heardAt: number): void {
    this.#times.set([lastSeen, heardAt], 2 * slot);
    this.#dirty.add(shardOf(slot));
  }

  /** The shards to write. They count as written; a failed transaction gives them back through `undo`. */
  takeDirty(undo: Undo): { shard: number; bytes: Buffer }[] {
    const shards = [...this.#dirty];
    this.#dirty.clear();
    undo.push(() => {
      for (const shard of shards) this.#dirty.add(shard);
    });
    return shards.map((shard) => {
      const times = this.#times.slice(shard * NUMBERS_PER_SHARD, (shard + 1) * NUMBERS_PER_SHARD);
      return { shard, bytes: Buffer.from(times.buffer) };
    });
  }

  #grow(slot: number): void {
    let length = this.#times.length;
    while (2 * slot + 1 >= length) length *= 2;
    if (length === this.#times.length) return;
    const larger = new Float64Array(length);
    larger.set(this.#times);
    this.#times = larger;
  }
}

function shardOf(slot: number): number {
  return Math.floor(slot / SLOTS_PER_SHARD);
}
