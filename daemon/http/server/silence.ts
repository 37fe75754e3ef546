/** Connections on which nothing has come yet, when a server closes: Node leaves those open until a request would be late. */
import type { Socket } from 'node:net';

/** Milliseconds that what a client has sent may be on its way. */
const GRACE = 100;

export class Silence {
  readonly #since = new WeakMap<Socket, number>();

  /** Ends a connection that was found silent before, and has had its time since. */
  end(socket: Socket): void {
    const now = performance.now();
    const since = this.#since.get(socket);
    if (since === undefined) this.#since.set(socket, now);
    else if (now - since >= GRACE) socket.destroy();
  }
}
