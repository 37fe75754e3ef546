/**
 * Shares the formatted full state among subscribers of the event stream. After a network failure, many subscribers request the
 * state at the same time and read it at about the same speed, so each chunk is formatted once for all of them. Only the newest
 * chunks are cached: a subscriber that reads more slowly than the others has its chunks formatted again.
 */
import type { Budget, Reservation } from '../../limits/budgets.ts';
import { MAX_LAG } from '../../registry/vm-snapshot.ts';

/** Maximum number of cached chunks: 2 MiB of ASCII text, the difference that socket buffers allow between two readers. */
const MAX_CACHED = 32;

/** Bytes of a chunk that is cached. A chunk is larger if a single entry is; such chunks would fill the budget for slow clients. */
const MAX_SIZE = 128 * 1024;

/** Milliseconds without a reader after which the cache is emptied: longer than a slow client takes to read a chunk. */
export const UNREAD_TIME = 10_000;

/** A part of a full state. */
export interface StateChunk {
  readonly bytes: Buffer;
  /** Index of the first entry of the next chunk; undefined for the last chunk. */
  readonly next: number | undefined;
  /** False if the state contains only one VM, whose `lastSeen` must be exact. */
  readonly isShareable: boolean;
}

/** Identifies a chunk. */
export interface ChunkKey {
  /** The snapshot, compared by identity. */
  readonly snapshot: object;
  /** Subscribers with equal keys receive the same entries. */
  readonly filterKey: string;
  /** Index of the first entry. */
  readonly start: number;
}

interface CachedChunk extends Omit<ChunkKey, 'snapshot'> {
  /** Weak, because no budget counts a snapshot: it must not outlive its last subscriber. */
  readonly snapshot: WeakRef<object>;
  readonly chunk: StateChunk;
  /** Listening time. */
  readonly formattedAt: number;
}

export class StateChunks {
  /** Oldest first. */
  readonly #cached: CachedChunk[] = [];
  readonly #reservation: Reservation;
  #timer: NodeJS.Timeout | undefined;

  /** @param budget counts a chunk once, even if subscribers are reading it */
  constructor(budget: Budget) {
    this.#reservation = budget.reserveAnyway(0);
  }

  /**
   * @param now on the listening clock; a cached chunk is at most {@link MAX_LAG} milliseconds old, because it contains `lastSeen`
   * @param format called if the chunk is not cached
   */
  get({ snapshot, filterKey, start }: ChunkKey, now: number, format: () => StateChunk): StateChunk {
    const cached = this.#cached.find(
      (each) => each.start === start && each.snapshot.deref() === snapshot && each.filterKey === filterKey,
    );
    this.#timer?.refresh();
    if (cached && now - cached.formattedAt < MAX_LAG) return cached.chunk;
    const chunk = format();
    if (chunk.isShareable && chunk.bytes.length <= MAX_SIZE)
      this.#add({ snapshot: new WeakRef(snapshot), filterKey, start, chunk, formattedAt: now });
    return chunk;
  }

  #add(added: CachedChunk): void {
    const { bytes } = added.chunk;
    this.#cached.push(added);
    this.#reservation.share(bytes, bytes.length);
    if (this.#cached.length > MAX_CACHED) this.#drop(1);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#drop(this.#cached.length);
    }, UNREAD_TIME).unref();
  }

  #drop(count: number): void {
    for (const { chunk } of this.#cached.splice(0, count)) this.#reservation.unshare(chunk.bytes);
  }
}
