/**
 * Counts the messages that the worker has sent and the main thread has not read yet. The worker reads a database faster than the
 * main thread processes it, so without a limit the messages of a large fleet would take hundreds of megabytes.
 */

/** Maximum number of unread messages. At half a megabyte each, they take 4 MB. */
const MAX_UNREAD = 8;

export class Unread {
  /** Both threads have the same memory. */
  readonly shared: SharedArrayBuffer;
  readonly #count: Int32Array;

  constructor(shared = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)) {
    this.shared = shared;
    this.#count = new Int32Array(shared);
  }

  /** Called by the worker after each message. Blocks until there is room for another one. */
  sent(): void {
    let count = Atomics.add(this.#count, 0, 1) + 1;
    while (count >= MAX_UNREAD) {
      Atomics.wait(this.#count, 0, count);
      count = Atomics.load(this.#count, 0);
    }
  }

  /** Called by the main thread after it has read a message. */
  read(): void {
    Atomics.sub(this.#count, 0, 1);
    Atomics.notify(this.#count, 0);
  }
}
