/**
 * The requests of one connection, one after the other. Node hands each over as soon as it is read, however many have no
 * answer yet: a single connection could have the app hold answers without end.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { getHeapStatistics } from 'node:v8';
import { VregError } from '../../../src/protocol/errors.ts';

/** Requests that may wait behind one of the same connection: clients that pipeline send a few dozen. */
const MAX_BEHIND = 100;
/** Bytes that those may be together: sixteen of the largest heads, or a hundred small ones with their bodies. */
const MAX_BYTES = 262_144;
/** Bytes that a request that waits costs besides what was sent: the objects that it is. */
const OBJECTS = 4096;
/** Bytes of a body that are read ahead at most; more wait in the kernel. */
const READ_AHEAD = 65_536;
/** An eighth of the heap, in bytes, for those of all connections. */
const SHARE = Math.floor(getHeapStatistics().heap_size_limit / 8);

interface Line {
  /** Being answered, or answered. */
  current: ServerResponse;
  /** Came last. */
  latest: ServerResponse;
  /** Requests that wait for their turn. */
  behind: number;
  /** Bytes of those. */
  bytes: number;
  hasWaited: boolean;
  isRefused: boolean;
  /** Called when it is the turn of one that did not arrive whole. */
  broken?: () => void;
}

export class Turns {
  readonly #lines = new WeakMap<Duplex, Line>();
  readonly #max: number;
  /** What those that wait keep, on all connections. */
  #kept = 0;

  /** @param max bytes that requests which wait may keep, on all connections together */
  constructor(max = SHARE) {
    this.#max = max;
  }

  /** @param refuse called of a connection on which too many wait; what else comes on it is not handed over */
  listener(handler: RequestListener, refuse: (socket: Duplex, error: VregError) => void): RequestListener {
    return (request, response) => {
      const { socket } = request;
      const line = this.#lines.get(socket);
      if (!line) {
        this.#lines.set(socket, newLine(response));
        return handler(request, response);
      }
      const before = line.latest;
      if (before.writableFinished) {
        line.latest = line.current = response;
        return handler(request, response);
      }
      if (line.isRefused) return;
      const bytes = sizeOf(request);
      const error = this.#refusalOf(line, bytes);
      if (error) {
        line.isRefused = true;
        const { current } = line;
        if (isRead(current) && !current.writableEnded) refuseNow(socket, current, () => refuse(socket, error));
        // What is done is not to be called refused; the rest is dropped.
        else current.once('close', () => refuse(socket, error));
        // Not to be read, since each request that is read is kept.
        socket.pause();
        return;
      }
      // Those that wait on a connection that goes never hear of it.
      if (!line.hasWaited) socket.once('close', () => this.#count(line, -line.behind, -line.bytes));
      line.hasWaited = true;
      this.#count(line, 1, bytes);
      line.latest = response;
      // One whose connection is gone never hears of it, and is not wanted any more.
      before.once('close', () => {
        if (!socket.destroyed) this.#count(line, -1, -bytes);
        line.current = response;
        if (line.isRefused) return;
        if (line.broken && !request.complete) line.broken();
        else if (!socket.destroyed) handler(request, response);
      });
    };
  }

  #refusalOf({ behind, bytes }: Line, more: number): VregError | undefined {
    if (behind === MAX_BEHIND) return tooMany(`more than ${MAX_BEHIND} requests wait on one connection`);
    if (bytes + more > MAX_BYTES) return tooMany(`requests of more than ${MAX_BYTES} bytes wait on one connection`);
    if (this.#kept + more + OBJECTS > this.#max)
      return tooMany(`requests that wait behind others keep ${this.#max} bytes, and that is the most`);
    return undefined;
  }

  #count(line: Line, requests: number, bytes: number): void {
    line.behind += requests;
    line.bytes += bytes;
    this.#kept += bytes + requests * OBJECTS;
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
    else if (line.latest === line.current) refuseNow(socket, line.current, act);
    else line.broken = act;
  }
}

function newLine(first: ServerResponse): Line {
  return { current: first, latest: first, behind: 0, bytes: 0, hasWaited: false, isRefused: false };
}

function isRead({ req }: ServerResponse): boolean {
  return req.method === 'GET' || req.method === 'HEAD';
}

/** In the place of an answer, which has not begun: within it, it would be a part of it. */
function refuseNow(socket: Duplex, answer: ServerResponse, refuse: () => void): void {
  if (answer.headersSent) socket.destroy();
  else refuse();
}

/** Bytes of a request, as far as they are read before its turn. */
function sizeOf({ url, headers, rawHeaders }: IncomingMessage): number {
  const body = headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : READ_AHEAD;
  return rawHeaders.reduce((sum, { length }) => sum + length, url!.length) + Math.min(body, READ_AHEAD);
}

function tooMany(message: string): VregError {
  return new VregError('TOO_MANY_REQUESTS', message, {
    hint: 'read the answers before you ask more, or open more connections',
  });
}
