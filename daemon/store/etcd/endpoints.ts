/**
 * The choice of a member. All requests of a client go to one member until it fails, because a client that takes turns would
 * meet a frozen member again and again: it stalled for 3 s instead of 1.5 s.
 */
import { backoff } from './backoff.ts';

/** Milliseconds for which a member is avoided after it did not answer: longer than an election and a short pause. */
const TIMEOUT_COOL_DOWN = 5000;
/** Milliseconds for which a member is avoided after it refused the connection: it may be restarting. */
const REFUSED_COOL_DOWN = 1000;
/** Milliseconds of the longest pause when all members have failed; an election takes 1 to 2 s. */
const MAX_PAUSE = 1000;

export class Endpoints {
  readonly all: readonly string[];
  readonly #now: () => number;
  readonly #random: () => number;
  /** Index of the member in use. */
  #current: number;
  /** Times until which members are avoided. */
  readonly #coolUntil = new Map<string, number>();
  #failures = 0;
  #pause: Promise<void> | undefined;

  /**
   * @param now a monotonic clock in milliseconds
   * @param random between 0 and 1; the first member is random, so that replicas spread over the cluster
   */
  constructor(all: readonly string[], now: () => number = () => performance.now(), random: () => number = Math.random) {
    this.all = all;
    this.#now = now;
    this.#random = random;
    this.#current = Math.floor(random() * all.length);
  }

  /**
   * Chooses the member in use, or the next one that has not failed lately. If all have, chooses the one that failed first.
   * @param avoid a member that is chosen only if there is no other one
   */
  choose(avoid?: string): string {
    const order = this.all.map((_, index) => this.all[(this.#current + index) % this.all.length]!);
    const candidates = this.all.length > 1 ? order.filter((endpoint) => endpoint !== avoid) : order;
    const cool = (endpoint: string) => this.#coolUntil.get(endpoint) ?? 0;
    const chosen =
      candidates.find((endpoint) => cool(endpoint) <= this.#now()) ??
      candidates.reduce((best, endpoint) => (cool(endpoint) < cool(best) ? endpoint : best));
    if (avoid === undefined) this.#current = this.all.indexOf(chosen);
    return chosen;
  }

  /** A request to this member has succeeded, or was refused by etcd itself. */
  succeeded(endpoint: string): void {
    this.#failures = 0;
    this.#coolUntil.delete(endpoint);
  }

  /** @param isTimeout true if it did not answer; false if it refused the connection or cannot serve */
  failed(endpoint: string, isTimeout: boolean): void {
    this.#coolUntil.set(endpoint, this.#now() + (isTimeout ? TIMEOUT_COOL_DOWN : REFUSED_COOL_DOWN));
  }

  /**
   * Waits before the next attempt if all members have failed lately. All requests of the client share the pause: separate ones
   * made 32,520 attempts in 6 s.
   */
  async pauseIfAllFailed(): Promise<void> {
    const now = this.#now();
    if (!this.all.every((endpoint) => (this.#coolUntil.get(endpoint) ?? 0) > now)) return;
    this.#pause ??= this.#startPause();
    await this.#pause;
  }

  async #startPause(): Promise<void> {
    const ms = backoff(this.#failures++, MAX_PAUSE, this.#random);
    await new Promise((resolve) => setTimeout(resolve, ms));
    this.#pause = undefined;
  }
}
