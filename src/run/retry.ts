/** Keeps long-running commands running while the registry is unreachable. */
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';

/** Errors that may be temporary. Any other error, for example a revoked token, ends a long-running command. */
const TRANSIENT: readonly ErrorCode[] = ['UNREACHABLE', 'BUSY', 'INTERNAL', 'TOO_MANY_REQUESTS'];

/** True if a long-running command reports this error and retries. */
export function isTransient(error: unknown): error is VregError {
  return error instanceof VregError && TRANSIENT.includes(error.code);
}

/**
 * True if no registry has responded. An error from the registry itself has its version; a proxy responds in place of one that is away,
 * and another service with something else than an answer of a registry.
 * @param server facts from the response with the error
 */
export function isAway(error: unknown, { version }: RegistryClient['server']): boolean {
  if (!(error instanceof VregError)) return false;
  const isFromOther = error.code === 'BUSY' || error.code === 'BAD_ANSWER';
  return error.code === 'UNREACHABLE' || (isFromOther && version === undefined);
}

/**
 * Repeats `work` until the program ends. After the first success, reports when the registry becomes unreachable and when it is
 * reachable again.
 * @param pause milliseconds between two runs
 * @throws VregError if the first run fails, or a later run fails with an error that is not transient
 */
export async function repeatWithRetry(context: Context, pause: number, work: () => Promise<void>): Promise<never> {
  const outage = new Outage(context);
  let begun = false;
  for (;;) {
    try {
      await work();
      begun = true;
      outage.over();
    } catch (error) {
      if (!begun || !isTransient(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(pause);
  }
}

/** Reports the beginning and the end of each outage. */
export class Outage {
  readonly #context: Context;
  #ongoing = false;

  constructor(context: Context) {
    this.#context = context;
  }

  begins({ message }: VregError): void {
    if (!this.#ongoing) this.#context.note(`${message}; retrying`);
    this.#ongoing = true;
  }

  over(): void {
    if (this.#ongoing) this.#context.note('the registry is reachable again');
    this.#ongoing = false;
  }
}
