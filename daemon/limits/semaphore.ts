import { limitReached } from '../../src/protocol/errors.ts';

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
