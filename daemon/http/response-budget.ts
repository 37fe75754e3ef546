/**
 * What answers keep in memory until their readers have taken it. A slow reader keeps it for long, and there may be many:
 * together they keep a share of the heap, and one more is refused before it ends the process.
 */
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { getHeapStatistics } from 'node:v8';
import { VregError } from '../../src/protocol/errors.ts';

/** An eighth of the heap, in bytes: the entries need most of the rest. */
const SHARE = Math.floor(getHeapStatistics().heap_size_limit / 8);

/** UTF-16 units of an answer that is not counted: as much as a connection costs anyway. */
export const SMALL = 16_384;

/** What one answer keeps. */
export interface Account {
  /** So many bytes, instead of those before. */
  keep(bytes: number): void;
  /** As well as others may: it counts once. */
  share(thing: object, bytes: number): void;
  close(): void;
}

export class Kept {
  readonly #max: number;
  #bytes = 0;
  /** How many share a thing. */
  readonly #shared = new Map<object, number>();

  /** @param max bytes; what was let in before it was reached may go beyond it by a piece each */
  constructor(max = SHARE) {
    this.#max = max;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @throws VregError TOO_MANY_REQUESTS while nothing more may be kept */
  checkRoom(): void {
    if (this.#bytes < this.#max) return;
    const message = `answers that their readers have not taken yet keep ${this.#max} bytes, and that is the most`;
    throw new VregError('TOO_MANY_REQUESTS', message, {
      hint: 'take answers as they come, ask for less (limit, role), or give the daemon more memory',
      retryAfter: 5,
    });
  }

  /**
   * @param response closes the account when it is over
   * @throws VregError TOO_MANY_REQUESTS
   */
  open(response: ServerResponse): Account {
    this.checkRoom();
    return this.count(response);
  }

  /** As {@link open}, of an answer that cannot be refused any more: what it tells is done. */
  count(response: ServerResponse): Account {
    let own = 0;
    let isOpen = !response.destroyed;
    const things: [thing: object, bytes: number][] = [];
    const account: Account = {
      keep: (bytes) => {
        if (!isOpen) return;
        this.#bytes += bytes - own;
        own = bytes;
      },
      share: (thing, bytes) => {
        if (!isOpen) return;
        things.push([thing, bytes]);
        const others = this.#shared.get(thing) ?? 0;
        if (others === 0) this.#bytes += bytes;
        this.#shared.set(thing, others + 1);
      },
      close: () => {
        account.keep(0);
        isOpen = false;
        for (const [thing, bytes] of things.splice(0)) this.#giveBack(thing, bytes);
      },
    };
    response.once('close', account.close);
    return account;
  }

  /**
   * Counts an answer that is one text, unless it is small.
   * @param isDone of what a change answers, which cannot be refused any more
   * @throws VregError TOO_MANY_REQUESTS
   */
  text(text: string, response: ServerResponse, isDone: boolean): void {
    if (text.length <= SMALL) return;
    const account = isDone ? this.count(response) : this.open(response);
    account.keep(Buffer.byteLength(text));
  }

  #giveBack(thing: object, bytes: number): void {
    const others = this.#shared.get(thing)! - 1;
    if (others > 0) this.#shared.set(thing, others);
    else {
      this.#shared.delete(thing);
      this.#bytes -= bytes;
    }
  }
}

/** An answer of which a piece is made when the one before is taken. @param next undefined at the end */
export function asTaken(next: () => Promise<string | undefined>, account: Account): Readable {
  const make = async (answer: Readable) => {
    const text = await next();
    const bytes = text === undefined ? null : Buffer.from(text);
    account.keep(bytes?.length ?? 0);
    answer.push(bytes);
  };
  return new Readable({
    // None is made ahead.
    highWaterMark: 0,
    read() {
      make(this).catch((error: Error) => this.destroy(error));
    },
  });
}
