/**
 * The requests of one connection, one after the other. Node hands each over as soon as it is read, however many have no
 * answer yet: a single connection could have the app hold answers without end.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { VregError } from '../../src/protocol/errors.ts';

/** Requests that may wait behind one of the same connection: clients that pipeline send a few dozen. */
const MAX_BEHIND = 100;

interface Line {
  /** Being answered, or answered. */
  current: ServerResponse;
  /** Came last. */
  latest: ServerResponse;
  /** Requests that wait for their turn. */
  behind: number;
  /** Called when it is the turn of one that did not arrive whole. */
  broken?: () => void;
}

export class Turns {
  readonly #lines = new WeakMap<Duplex, Line>();

  /** @param refuse called of a connection on which too many wait; what else comes on it is not handed over */
  listener(handler: RequestListener, refuse: (socket: Duplex, error: VregError) => void): RequestListener {
    return (request, response) => {
      const { socket } = request;
      const line = this.#lines.get(socket);
      if (!line) {
        this.#lines.set(socket, { current: response, latest: response, behind: 0 });
        return handler(request, response);
      }
      const before = line.latest;
      if (before.writableFinished) {
        line.latest = line.current = response;
        return handler(request, response);
      }
      if (line.behind > MAX_BEHIND) return;
      if (line.behind++ === MAX_BEHIND) {
        if (line.current.headersSent) socket.destroy();
        else refuse(socket, tooMany());
        // Not to be read, since each request that is read is kept.
        socket.pause();
        return;
      }
      line.latest = response;
      // One whose connection is gone never hears of it, and is not wanted any more.
      before.once('close', () => {
        line.behind--;
        line.current = response;
        if (line.broken && !request.complete) line.broken();
        else if (!socket.destroyed) handler(request, response);
      });
    };
  }

  /** The request of a connection that came last, if one has come. */
  latest(socket: Duplex): { request: IncomingMessage; response: ServerResponse } | undefined {
    const response = this.#lines.get(socket)?.latest;
    return response && { request: response.req, response };
  }

  /** Acts when all that came whole on a connection is answered. */
  whenAnswered(socket: Duplex, act: () => void): void {
    const line = this.#lines.get(socket);
    // One that is not whole has no answer to wait for.
    if (!line || line.latest.writableFinished) act();
    else if (line.latest.req.complete) line.latest.once('close', act);
    else if (line.latest === line.current) act();
    else line.broken = act;
  }
}

function tooMany(): VregError {
  return new VregError('TOO_MANY_REQUESTS', `more than ${MAX_BEHIND} requests wait on one connection`, {
    hint: 'read the answers before you ask more, or open more connections',
  });
}
