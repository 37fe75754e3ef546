/**
 * Memory budgets, admission limits and the scheduler. Slow clients and slow disks make the daemon buffer responses,
 * requests, changes and events. Each kind of buffer has a budget: a share of the heap that remains after the stored
 * entries. A buffer reserves its bytes before it grows, so that an overloaded daemon answers 429 and never runs out of
 * heap.
 */
import { getHeapStatistics } from 'node:v8';
import { formatBytes, limitReached, VregError } from '../src/protocol/errors.ts';

/** Share of the heap that stored entries may fill. The buffers below divide the rest. */
const ENTRIES_SHARE = 1 / 2;

/**
 * Bytes of heap for one unit of an entry's weight. Measured: 3.3 for an ordinary entry, up to 7.8 for metadata made of
 * many short keys or empty objects.
 */
const HEAP_PER_WEIGHT = 8;

interface BudgetRow {
  /** Share of the heap that remains after the stored entries. */
  readonly share: number;
  /** The likely reason why the budget is used up, for the error. */
  readonly cause: string;
  readonly hint: string;
  /** Seconds. */
  readonly retryAfter: number;
}

/**
 * The shares add up to less than half, because buffers are counted by their payload: objects, sockets and garbage that
 * is not collected yet need the other half. With a heap of 4 GiB, a share of 1/64 is 32 MiB.
 */
export const BUDGETS = {
  /** Response bytes that clients have not read yet, and the lists that unfinished responses refer to. */
  responses: {
    share: 1 / 8,
    cause: 'slow clients are holding responses',
    hint: 'read responses faster, ask for less (limit, role), or give the daemon more memory',
    retryAfter: 5,
  },
  /** Requests that wait behind another request on the same connection. */
  pipelined: {
    share: 1 / 8,
    cause: 'clients are sending requests faster than they read responses',
    hint: 'read responses before sending more requests, or open more connections',
    retryAfter: 1,
  },
  /** Changes that wait for the disk. */
  changes: {
    share: 1 / 16,
    cause: 'the disk is slower than the changes',
    hint: 'retry in a second, or store less in metadata',
    retryAfter: 1,
  },
  /** Large request bodies, from their headers until the response. */
  bodies: {
    share: 1 / 16,
    cause: 'other large requests are in progress',
    hint: 'retry in a second, or send a smaller body with a Content-Length',
    retryAfter: 1,
  },
  /** Events that wait for a slow subscriber alone. The slowest subscriber is evicted when this is used up. */
  subscribers: {
    share: 1 / 32,
    cause: 'slow subscribers are holding events',
    hint: 'read events faster, or filter them (role, id)',
    retryAfter: 5,
  },
  /** Recent events, kept for subscribers that reconnect. The oldest are dropped when this is used up. */
  events: {
    share: 1 / 64,
    cause: 'recent events are retained for reconnecting subscribers',
    hint: 'give the daemon more memory',
    retryAfter: 5,
  },
  /** Events that the fan-out has not delivered yet. The slowest subscribers are evicted when this is used up. */
  fanout: {
    share: 1 / 64,
    cause: 'events arrive faster than they are delivered',
    hint: 'read events faster, or filter them (role, id)',
    retryAfter: 5,
  },
  /** Log lines that wait for a full disk or a blocked pipe. More lines are dropped and counted. */
  log: {
    share: 1 / 512,
    cause: 'the log cannot be written',
    hint: 'free the disk, or read the pipe',
    retryAfter: 5,
  },
} as const satisfies Record<string, BudgetRow>;

export type BudgetName = keyof typeof BUDGETS;
export type Budgets = Readonly<Record<BudgetName, Budget>>;

/**
 * Sizes up to which buffers are not counted, so that an overloaded daemon still serves small requests. In bytes; each
 * is in the order of what an open connection costs anyway.
 */
export const UNCOUNTED = {
  response: 16_384,
  body: 65_536,
} as const;

/** Limits of counts that do not depend on a setting; see also {@link openStreamLimit}. */
export const COUNTS = {
  /** Backups in progress; each needs as much disk as the database until it is sent. */
  backups: 2,
  /** History pages that are waiting to be read. They are read one at a time, and each takes up to 100 ms. */
  historyPages: 50,
} as const;

/** Share of the connections that long polls and event streams may occupy; the rest stays free for short requests. */
const OPEN_STREAMS_SHARE = 1 / 2;

/** @param maxConnections of each listener */
export function openStreamLimit(maxConnections: number): number {
  return Math.ceil(maxConnections * OPEN_STREAMS_SHARE);
}

/** A request that arrives more slowly than this counts as stalled. Slow links pass, slowloris attacks do not. */
const MIN_RATE = { bytes: 1_048_576, ms: 30_000 };

/**
 * Time for a whole request to arrive, in milliseconds: 30 s, or longer when larger bodies are allowed.
 * @param maxBody in bytes
 */
export function requestTimeout(maxBody: number): number {
  return Math.ceil(MIN_RATE.ms * Math.max(1, maxBody / MIN_RATE.bytes));
}

/** Limits of one event stream. */
export interface StreamLimits {
  /** Milliseconds between two comment lines, which tell proxies and subscribers that the stream is alive. */
  keepAlive: number;
  /**
   * Bytes that may wait for one subscriber beyond the state that it asked for. A subscriber that holds more is evicted.
   */
  maxBacklog: number;
  /** Milliseconds that an evicted subscriber has to read the `lagged` event. */
  lagGrace: number;
}

/** The HTML standard advises a comment every 15 s; 1 MiB is some seconds of a busy fleet. */
export const STREAM_LIMITS: StreamLimits = { keepAlive: 15_000, maxBacklog: 1_048_576, lagGrace: 5000 };

/** @returns the weight that all stored entries may have together. @param heap bytes */
export function entriesLimit(heap = heapLimit()): number {
  return Math.floor((heap * ENTRIES_SHARE) / HEAP_PER_WEIGHT);
}

/**
 * Makes the budgets of one daemon.
 * @param limits in bytes, for tests that need other limits than the shares of the heap
 * @param heap bytes
 */
export function createBudgets(limits: Partial<Record<BudgetName, number>> = {}, heap = heapLimit()): Budgets {
  const rest = heap * (1 - ENTRIES_SHARE);
  const names = Object.keys(BUDGETS) as BudgetName[];
  const budgets = names.map((name) => [name, new Budget(name, limits[name] ?? Math.floor(rest * BUDGETS[name].share))]);
  return Object.fromEntries(budgets);
}

function heapLimit(): number {
  return getHeapStatistics().heap_size_limit;
}

export class Budget {
  readonly name: BudgetName;
  /** In bytes. */
  readonly limit: number;
  #used = 0;
  /** How many reservations share an object, and its bytes. */
  readonly #shared = new Map<object, { count: number; bytes: number }>();

  /** @param limit in bytes */
  constructor(name: BudgetName, limit: number) {
    this.name = name;
    this.limit = limit;
  }

  /** Reserved bytes. */
  get used(): number {
    return this.#used;
  }

  /**
   * @returns whether {@link reserve} would succeed. An empty budget grants any size, so that nothing is refused
   *   forever.
   */
  fits(bytes: number): boolean {
    return this.#used === 0 || (this.#used < this.limit && this.#used + bytes <= this.limit);
  }

  /** @throws VregError TOO_MANY_REQUESTS if {@link reserve} would fail */
  assertFits(bytes = 0): void {
    if (!this.fits(bytes)) throw budgetExhausted(this);
  }

  /**
   * Reserves bytes until the reservation is released.
   * @throws VregError TOO_MANY_REQUESTS if the budget is used up; nothing is reserved then
   */
  reserve(bytes = 0): Reservation {
    this.assertFits(bytes);
    return this.reserveAnyway(bytes);
  }

  /** Like {@link reserve}, for bytes that cannot be refused any more, such as the response to a committed change. */
  reserveAnyway(bytes: number): Reservation {
    const reservation: Reservation = new Reservation({
      add: (delta) => (this.#used += delta),
      share: (thing, size) => this.#share(thing, size),
      unshare: (thing) => this.#unshare(thing),
    });
    reservation.resize(bytes);
    return reservation;
  }

  #share(thing: object, bytes: number): void {
    const known = this.#shared.get(thing);
    if (known) known.count++;
    else {
      this.#shared.set(thing, { count: 1, bytes });
      this.#used += bytes;
    }
  }

  #unshare(thing: object): void {
    const known = this.#shared.get(thing)!;
    if (--known.count > 0) return;
    this.#shared.delete(thing);
    this.#used -= known.bytes;
  }
}

/** The operations of a budget that its reservations need. */
interface Ledger {
  add(bytes: number): void;
  share(thing: object, bytes: number): void;
  unshare(thing: object): void;
}

/** Bytes of a budget that one holder occupies. After its release it ignores all calls. */
export class Reservation {
  readonly #ledger: Ledger;
  #bytes = 0;
  readonly #things = new Set<object>();
  #isReleased = false;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  /** Sets the bytes that this holder occupies. Growth is not refused: a response that has begun must go on. */
  resize(bytes: number): void {
    if (this.#isReleased) return;
    this.#ledger.add(bytes - this.#bytes);
    this.#bytes = bytes;
  }

  /** Also occupies an object that other holders may share. The budget counts it once. */
  share(thing: object, bytes: number): void {
    if (this.#isReleased || this.#things.has(thing)) return;
    this.#ledger.share(thing, bytes);
    this.#things.add(thing);
  }

  /** Gives one shared object back. */
  unshare(thing: object): void {
    if (this.#things.delete(thing)) this.#ledger.unshare(thing);
  }

  release(): void {
    this.resize(0);
    this.#isReleased = true;
    for (const thing of this.#things) this.unshare(thing);
  }
}

export function budgetExhausted({ name, limit }: Pick<Budget, 'name' | 'limit'>): VregError {
  const { cause, hint, retryAfter } = BUDGETS[name];
  return new VregError('TOO_MANY_REQUESTS', `the ${name} buffer is full (limit ${formatBytes(limit)}): ${cause}`, {
    hint,
    retryAfter,
  });
}

/** Caps the number of concurrent operations of one kind. */
export class Semaphore {
  readonly #what: string;
  readonly #limit: number;
  readonly #hint: string;
  readonly #retryAfter: number;
  #count = 0;

  /**
   * @param what plural noun for the error: `open streams`
   * @param retryAfter seconds
   */
  constructor(what: string, limit: number, { hint, retryAfter }: { hint: string; retryAfter: number }) {
    this.#what = what;
    this.#limit = limit;
    this.#hint = hint;
    this.#retryAfter = retryAfter;
  }

  /** @returns a function that releases the place; only its first call counts. @throws VregError TOO_MANY_REQUESTS */
  acquire(): () => void {
    if (this.#count >= this.#limit) {
      throw limitReached(this.#what, this.#limit, { hint: this.#hint, retryAfter: this.#retryAfter });
    }
    this.#count++;
    let isHeld = true;
    return () => {
      if (isHeld) this.#count--;
      isHeld = false;
    };
  }
}

/** Milliseconds of scheduled work in one turn of the event loop. Short requests are served between two turns. */
const SLICE = 5;

/**
 * Cooperative scheduler. It runs long work in slices of a few milliseconds and lets the event loop serve other requests
 * in between. Without it, many long requests that arrive together would run in one turn that lasts for seconds.
 */
export class Scheduler {
  readonly #queue: (() => void)[] = [];
  /** When the slice of this turn ends, by `performance.now()`; undefined if this turn has done no work yet. */
  #sliceEnd: number | undefined;
  /** Resolves when the last job of {@link serialize} is done. */
  #tail = Promise.resolve();
  #serialized = 0;

  /** Runs a job immediately if this turn has time left, otherwise after the jobs that came before. */
  run<T>(job: () => T): T | Promise<Awaited<T>> {
    if (this.#queue.length === 0 && this.hasTime()) return job();
    return new Promise((resolve, reject) => {
      this.#queue.push(() => {
        try {
          resolve(job() as Awaited<T>);
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /**
   * Repeats a step until it returns false, as many times in each turn as the slice allows.
   * @param isWanted false ends the work early, because its client has gone
   */
  async repeat(step: () => boolean, isWanted: () => boolean = () => true): Promise<void> {
    let more = true;
    const slice = () => {
      do more = step();
      while (more && this.hasTime());
    };
    while (more && isWanted()) await this.run(slice);
  }

  /** Like {@link Array.filter}, in slices. If `isWanted` becomes false, the result is incomplete. */
  async filter<T>(items: readonly T[], predicate: (item: T) => boolean, isWanted?: () => boolean): Promise<T[]> {
    const found: T[] = [];
    if (items.length === 0) return found;
    let at = 0;
    const step = () => {
      const item = items[at++]!;
      if (predicate(item)) found.push(item);
      return at < items.length;
    };
    await this.repeat(step, isWanted);
    return found;
  }

  /** Jobs of {@link serialize} that are not done yet. */
  get serialized(): number {
    return this.#serialized;
  }

  /**
   * Runs asynchronous jobs one after the other, at most one in each turn of the event loop. The results of many worker
   * calls can arrive in one turn; if each of them started the next job at once, that turn would not end.
   */
  async serialize<T>(job: () => Promise<T>): Promise<T> {
    const previous = this.#tail;
    let finish = () => {};
    this.#tail = new Promise((resolve) => (finish = () => setImmediate(resolve)));
    this.#serialized++;
    await previous;
    try {
      return await job();
    } finally {
      this.#serialized--;
      finish();
    }
  }

  /** True while the slice of this turn has time left. A job that runs in steps ends its slice when it becomes false. */
  hasTime(): boolean {
    if (this.#sliceEnd === undefined) {
      this.#sliceEnd = performance.now() + SLICE;
      setImmediate(() => this.#turn());
    }
    return performance.now() < this.#sliceEnd;
  }

  #turn(): void {
    this.#sliceEnd = undefined;
    while (this.#queue.length > 0 && this.hasTime()) this.#queue.shift()!();
  }
}
