/**
 * Closes connections on which nothing has arrived yet. While a server closes, Node would keep them open until a request is
 * overdue.
 */
import type { Socket } from 'node:net';

/** Milliseconds for which bytes from the client may be in transit. */
const GRACE = 100;

export class IdleSockets {
  /** Time at which a connection was first seen idle, from `performance.now()`. */
  readonly #since = new WeakMap<Socket, number>();

  /** Destroys the connection if it was already idle in a call at least {@link GRACE} ago. */
  end(socket: Socket): void {
    const now = performance.now();
    const since = this.#since.get(socket);
    if (since === undefined) this.#since.set(socket, now);
    else if (now - since >= GRACE) socket.destroy();
  }
}
