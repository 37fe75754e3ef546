/** Connections on which nothing has arrived yet. While a server closes, Node would keep them open until a request is overdue. */
import type { Socket } from 'node:net';

/** Milliseconds that bytes which the client has already sent may be in transit. */
const GRACE = 100;

export class IdleSockets {
  /** When a connection was first found idle, by `performance.now()`. */
  readonly #since = new WeakMap<Socket, number>();

  /** Destroys a connection that was already idle at an earlier call, at least {@link GRACE} ago. */
  end(socket: Socket): void {
    const now = performance.now();
    const since = this.#since.get(socket);
    if (since === undefined) this.#since.set(socket, now);
    else if (now - since >= GRACE) socket.destroy();
  }
}
