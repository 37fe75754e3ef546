/**
 * Memory budgets, admission limits and the scheduler. Slow clients and slow disks make the daemon buffer responses, requests,
 * changes and events. Each kind of buffer has a budget: a share of the heap that remains after the stored entries. A buffer
 * reserves its bytes before it grows, so an overloaded daemon responds with 429 and never runs out of heap.
 */
import { getHeapStatistics } from 'node:v8';
import { formatBytes, limitReached, VregError } from '../src/protocol/errors.ts';

const MEBIBYTE = 1_048_576;

/** Share of the heap that stored entries may fill. The budgets are shares of the rest. */
const ENTRIES_SHARE = 1 / 2;

/**
 * Share of the heap above which stored entries are refused at start. The rest holds the program and the garbage of the start.
 * Between this share and {@link ENTRIES_SHARE}, they fit, but no entry can be added.
 */
const START_SHARE = 3 / 4;

/**
 * Bytes of heap per VM by which `--max-vms` is checked at start: the weight of an entry with 370 bytes of JSON and one service,
 * see `VmRecord.weight`.
 */
const USUAL_WEIGHT = 1450;

interface BudgetRow {
  /** Share of the heap that remains after the stored entries. */
  readonly share: number;
  /** The likely reason why the budget is exhausted, for the error. */
  readonly cause: string;
  readonly hint: string;
  /** Seconds after which to retry. */
  readonly retryAfter: number;
}

/**
 * The shares add up to less than half, because only the payload of buffers is counted. The other half is for objects, sockets
 * and uncollected garbage. With a heap of 4 GiB, a share of 1/64 is 32 MiB.
 */
export const BUDGETS = {
  /** Response bytes that clients have not read yet, and the lists to which unfinished responses refer. */
  responses: {
    share: 1 / 8,
    cause: 'clients read responses too slowly',
    hint: 'read responses faster, request less (limit, role), or give the daemon more memory',
    retryAfter: 5,
  },
  /** Requests that are queued behind another request on the same connection. */
  pipelined: {
    share: 1 / 8,
    cause: 'clients are sending requests faster than they read responses',
    hint: 'read responses before sending more requests, or open more connections',
    retryAfter: 1,
  },
  /** Changes that the disk has not stored yet. */
  changes: {
    share: 1 / 16,
    cause: 'changes arrive faster than the disk stores them',
    hint: 'retry in a second, or store less in metadata',
    retryAfter: 1,
  },
  /** Large request bodies, from their headers until the response, and the values of imports that take more memory than their JSON. */
  bodies: {
    share: 1 / 16,
    cause: 'other large requests are in progress',
    hint: 'retry in a second, or send a smaller body with a Content-Length',
    retryAfter: 1,
  },
  /** Delivered events that slow subscribers have not read yet. When it is exhausted, the slowest subscriber is evicted. */
  subscribers: {
    share: 1 / 32,
    cause: 'subscribers read events too slowly',
    hint: 'read events faster, or filter them (role, id)',
    retryAfter: 5,
  },
  /** Recent events, retained for subscribers that reconnect. When it is exhausted, the oldest events are dropped. */
  events: {
    share: 1 / 64,
    cause: 'recent events are retained for reconnecting subscribers',
    hint: 'give the daemon more memory',
    retryAfter: 5,
  },
  /** Events that the fan-out has not delivered yet. When it is exhausted, the slowest subscribers are evicted. */
  fanout: {
    share: 1 / 64,
    cause: 'events arrive faster than they are delivered',
    hint: 'read events faster, or filter them (role, id)',
    retryAfter: 5,
  },
  /**
   * Log lines that cannot be written yet, because the disk is full or a pipe is blocked. When it is exhausted, lines are
   * dropped and counted.
   */
  log: {
    share: 1 / 512,
    cause: 'the log cannot be written',
    hint: 'free up disk space, or check the process that reads the log',
    retryAfter: 5,
  },
} as const satisfies Record<string, BudgetRow>;

export type BudgetName = keyof typeof BUDGETS;
export type Budgets = Readonly<Record<BudgetName, Budget>>;

/**
 * Sizes in bytes up to which buffers are not counted, so that an overloaded daemon still serves small requests. Each is of the
 * same order as the memory that an open connection takes.
 */
export const UNCOUNTED = {
  response: 16_384,
  body: 65_536,
} as const;

/** Limits on counts that no setting changes; see also {@link openStreamLimit}. */
export const COUNTS = {
  /** Backups in progress. Until it is sent, each needs as much disk space as the database. */
  backups: 2,
  /** History pages that are waiting to be read. They are read one at a time, and each takes up to 100 ms. */
  historyPages: 50,
} as const;

/** Share of the connections that long polls and event streams may occupy; the rest is reserved for short requests. */
const OPEN_STREAMS_SHARE = 1 / 2;

/** @param maxConnections the limit per listener */
export function openStreamLimit(maxConnections: number): number {
  return Math.ceil(maxConnections * OPEN_STREAMS_SHARE);
}

/** The minimum rate at which a request must arrive. Slow links reach it, slowloris attacks do not. */
const MIN_RATE = { bytes: 1_048_576, ms: 30_000 };

/**
 * Milliseconds within which a complete request must arrive: 30 s, or longer if larger bodies are allowed.
 * @param maxBody bytes
 */
export function requestTimeout(maxBody: number): number {
  return Math.ceil(MIN_RATE.ms * Math.max(1, maxBody / MIN_RATE.bytes));
}

/** Limits of one event stream. */
export interface StreamLimits {
  /** Milliseconds between two comment lines, which show proxies and subscribers that the connection works. */
  keepAlive: number;
  /**
   * Maximum number of bytes that a subscriber has not read yet, not counting the state that it requested. A subscriber that
   * exceeds it is evicted.
   */
  maxBacklog: number;
  /** Milliseconds for an evicted subscriber to read the `lagged` event. */
  lagGrace: number;
}

/** The HTML standard recommends a comment every 15 s. 1 MiB is a few seconds of events from a busy fleet. */
export const STREAM_LIMITS: StreamLimits = { keepAlive: 15_000, maxBacklog: 1_048_576, lagGrace: 5000 };

/** @param heap bytes @returns the maximum total weight of all stored entries, in bytes */
export function entriesLimit(heap = heapLimit()): number {
  return Math.floor(heap * ENTRIES_SHARE);
}

/** @returns the heap in MiB that a number of VMs of usual size needs, for `--max-old-space-size` */
export function neededHeap(maxVms: number): number {
  return heapFor(maxVms * USUAL_WEIGHT);
}

/** @param weight of entries, in bytes @returns the smallest heap that has room for them, in MiB */
function heapFor(weight: number): number {
  return Math.ceil(weight / ENTRIES_SHARE / MEBIBYTE);
}

/**
 * Size of the JSON of cached lists, which is outside the heap, as a share of the heap. With a heap of 4 GiB, this is 256 MiB; all
 * lists of 200,000 VMs with 320 bytes each take 194 MB.
 */
const LIST_CACHE_SHARE = 1 / 16;

/** @param heap bytes @returns the maximum size of the JSON of cached lists, in bytes */
export function listCacheLimit(heap = heapLimit()): number {
  return Math.floor(heap * LIST_CACHE_SHARE);
}

/**
 * Explains that the heap is too small for a number of VMs of usual size.
 * @param heap bytes
 * @returns undefined if they fit; otherwise an error with code USAGE
 */
export function heapTooSmall(maxVms: number, heap = heapLimit()): VregError | undefined {
  const room = Math.floor(entriesLimit(heap) / USUAL_WEIGHT);
  if (maxVms <= room) return undefined;
  const message = `the heap (${formatBytes(heap)}) is too small for ${maxVms} VMs: it has room for about ${room}`;
  return new VregError('USAGE', message, {
    field: 'max-vms',
    hint: `give the daemon more memory: NODE_OPTIONS=--max-old-space-size=${neededHeap(maxVms)}`,
  });
}

/** @param weight of stored entries, in bytes @param heap bytes @returns true if the daemon can start with them, see {@link storeTooLarge} */
export function fitsAtStart(weight: number, heap: number): boolean {
  return weight <= heap * START_SHARE;
}

/**
 * Explains that the stored entries exceed their limit.
 * @param weight of the stored entries, in bytes
 * @param heap bytes
 * @returns undefined if they do not; otherwise an error with code STORE_UNUSABLE, which is only a warning if {@link fitsAtStart}
 */
export function storeTooLarge(weight: number, heap: number): VregError | undefined {
  const limit = entriesLimit(heap);
  if (weight <= limit) return undefined;
  const message = `the heap (${formatBytes(heap)}) is too small for the stored VMs: they need ${formatBytes(weight)} (limit ${formatBytes(limit)})`;
  return new VregError('STORE_UNUSABLE', message, {
    hint: `give the daemon more memory: NODE_OPTIONS=--max-old-space-size=${heapFor(weight)}`,
  });
}

/**
 * Creates the budgets of a daemon.
 * @param limits bytes, for tests that need limits other than the shares of the heap
 * @param heap bytes
 */
export function createBudgets(limits: Partial<Record<BudgetName, number>> = {}, heap = heapLimit()): Budgets {
  const rest = heap * (1 - ENTRIES_SHARE);
  const names = Object.keys(BUDGETS) as BudgetName[];
  const budgets = names.map((name) => [name, new Budget(name, limits[name] ?? Math.floor(rest * BUDGETS[name].share))]);
  return Object.fromEntries(budgets);
}

/** The option that sets the size of the heap for old objects, in MiB. */
const OLD_SPACE_OPTION = /--max[-_]old[-_]space[-_]size[= ](\d+)/g;

/**
 * Bytes for old objects, such as entries. V8's limit includes 48 MiB (Node 20) to 192 MiB (Node 24) for new objects, which is
 * more than half of a heap that was set to be small.
 */
export function heapLimit(): number {
  const { heap_size_limit: limit } = getHeapStatistics();
  const options = [process.env.NODE_OPTIONS ?? '', ...process.execArgv].join(' ');
  const megabytes = [...options.matchAll(OLD_SPACE_OPTION)].at(-1)?.[1];
  return megabytes === undefined ? limit : Math.min(limit, Number(megabytes) * MEBIBYTE);
}

export class Budget {
  readonly name: BudgetName;
  /** In bytes. */
  readonly limit: number;
  #used = 0;
  /** The number of reservations that share an object, and its bytes. */
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
   * @returns true if {@link reserve} would succeed. A budget of which nothing is reserved grants any size, so that no request
   * is refused forever
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
   * @throws VregError TOO_MANY_REQUESTS if the budget is exhausted; then nothing is reserved
   */
  reserve(bytes = 0): Reservation {
    this.assertFits(bytes);
    return this.reserveAnyway(bytes);
  }

  /** Like {@link reserve}, for bytes that can no longer be refused, such as the response to a committed change. */
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

/** The operations of a budget that its reservations use. */
interface Ledger {
  add(bytes: number): void;
  share(thing: object, bytes: number): void;
  unshare(thing: object): void;
}

/** The part of a budget that one holder has reserved. After the release, all calls are ignored. */
export class Reservation {
  readonly #ledger: Ledger;
  #bytes = 0;
  readonly #things = new Set<object>();
  #isReleased = false;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  /** Sets the number of reserved bytes. Growth is never refused, because a response that has begun must continue. */
  resize(bytes: number): void {
    if (this.#isReleased) return;
    this.#ledger.add(bytes - this.#bytes);
    this.#bytes = bytes;
  }

  /** Also reserves the bytes of an object that other holders may share. The budget counts a shared object once. */
  share(thing: object, bytes: number): void {
    if (this.#isReleased || this.#things.has(thing)) return;
    this.#ledger.share(thing, bytes);
    this.#things.add(thing);
  }

  /** Releases a shared object. */
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
   * @param what plural noun for the error, for example `open streams`
   * @param retryAfter seconds
   */
  constructor(what: string, limit: number, { hint, retryAfter }: { hint: string; retryAfter: number }) {
    this.#what = what;
    this.#limit = limit;
    this.#hint = hint;
    this.#retryAfter = retryAfter;
  }

  /** @returns a function that releases the permit; further calls have no effect @throws VregError TOO_MANY_REQUESTS */
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

/** Milliseconds of scheduled work per turn of the event loop. Short requests are served between two turns. */
const SLICE = 5;

/**
 * A cooperative scheduler. It runs long work in slices of a few milliseconds, between which the event loop serves other
 * requests. Otherwise, many long requests that arrive together could block the event loop for seconds.
 */
export class Scheduler {
  readonly #queue: (() => void)[] = [];
  /** End of the current turn's slice, from `performance.now()`; undefined if no job has run in this turn. */
  #sliceEnd: number | undefined;
  /** Resolves when the last job in {@link serialize} is done. */
  #tail = Promise.resolve();
  #serialized = 0;

  /** Runs a job immediately if this turn has time left, otherwise after the jobs that are already queued. */
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
   * Repeats a step until it returns false, in each turn as often as the slice allows.
   * @param isWanted returns false to end the work early, because the client has left
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

  /** Calls `act` with each item, in slices. */
  async forEach<T>(items: readonly T[], act: (item: T) => void): Promise<void> {
    await this.filter(items, (item) => {
      act(item);
      return false;
    });
  }

  /** Number of jobs in {@link serialize} that are not done yet. */
  get serialized(): number {
    return this.#serialized;
  }

  /**
   * Runs asynchronous jobs one at a time, at most one per turn of the event loop. The results of many worker calls can arrive
   * in one turn; if each of them started the next job immediately, that turn would not end.
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

  /** True while the current slice has time left. A job that runs in steps must stop when it becomes false. */
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
