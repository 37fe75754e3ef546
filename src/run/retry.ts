/** Commands that stay while the registry goes away and comes back. */
import type { Context } from '../command.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';

/** Failures that pass by themselves; any other (the token was taken away, say) ends what stays. */
const PASSING: readonly ErrorCode[] = ['UNREACHABLE', 'BUSY', 'INTERNAL', 'TOO_MANY_REQUESTS'];

/** True of a failure that a command which stays tells, and outlasts. */
export function isPassing(error: unknown): error is VregError {
  return error instanceof VregError && PASSING.includes(error.code);
}

/**
 * Does something again and again until the program is ended. A registry that goes away after the first success is told
 * once, and so is its return.
 * @param pause milliseconds after each success
 * @throws VregError when the first time fails, or a later one with what does not pass
 */
export async function outlast(context: Context, pause: number, work: () => Promise<void>): Promise<never> {
  const outage = new Outage(context);
  let begun = false;
  for (;;) {
    try {
      await work();
      begun = true;
      outage.over();
    } catch (error) {
      if (!begun || !isPassing(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(pause);
  }
}

/** Tells when the registry goes away and when it is back, once each. */
export class Outage {
  readonly #context: Context;
  #is = false;

  constructor(context: Context) {
    this.#context = context;
  }

  begins({ message }: VregError): void {
    if (!this.#is) this.#context.note(`${message}; trying again`);
    this.#is = true;
  }

  over(): void {
    if (this.#is) this.#context.note('the registry is back');
    this.#is = false;
  }
}
