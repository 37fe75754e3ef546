/** Limits the calls of tools and the reads of resources that run at a time, so that a client cannot flood the registry. */
import { limitReached } from '../protocol/errors.ts';

/** Seconds after which another call is likely to have ended. */
const RETRY_AFTER = 5;

export class CallLimit {
  readonly #what: string;
  readonly #limit: number;
  readonly #maxWaiting: number;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  /**
   * @param what in the plural, for errors
   * @param limit calls that run at a time; further ones wait
   * @param maxWaiting calls that wait at a time
   */
  constructor(what: string, limit: number, maxWaiting: number) {
    this.#what = what;
    this.#limit = limit;
    this.#maxWaiting = maxWaiting;
  }

  /**
   * Runs the work as soon as fewer than `limit` others run.
   * @throws VregError TOO_MANY_REQUESTS if too many wait; the abort reason of the signal, if it is aborted before the work begins
   */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#enter(signal);
    try {
      return await work();
    } finally {
      // The next one takes over this permit.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }

  async #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#running < this.#limit) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= this.#maxWaiting)
      throw limitReached(this.#what, this.#limit + this.#maxWaiting, { retryAfter: RETRY_AFTER });
    await new Promise<void>((resolve, reject) => {
      const enter = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(enter), 1);
        reject(signal.reason);
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.push(enter);
    });
  }
}
