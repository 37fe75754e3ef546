/**
 * Memory budgets. Slow clients and slow disks make the daemon buffer responses, requests, changes and events. Each kind of
 * buffer has a budget: a share of the heap that remains after the stored entries. A buffer reserves its bytes before it grows,
 * so an overloaded daemon responds with 429 and never runs out of heap.
 */
import { formatBytes, VregError } from '../../src/protocol/errors.ts';
import { entriesLimit, heapLimit } from './heap.ts';

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

/**
 * Creates the budgets of a daemon.
 * @param limits bytes, for tests that need limits other than the shares of the heap
 * @param heap bytes
 */
export function createBudgets(limits: Partial<Record<BudgetName, number>> = {}, heap = heapLimit()): Budgets {
  const rest = heap - entriesLimit(heap);
  const names = Object.keys(BUDGETS) as BudgetName[];
  const budgets = names.map((name) => [name, new Budget(name, limits[name] ?? Math.floor(rest * BUDGETS[name].share))]);
  return Object.fromEntries(budgets);
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
