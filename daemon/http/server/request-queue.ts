/**
 * HTTP/1.1 pipelining. Node emits every request as soon as it is parsed, even if earlier requests on the same connection have
 * not been answered. The queue handles the requests of a connection one at a time and pauses a socket on which too many arrive.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { VregError } from '../../../src/protocol/errors.ts';
import { type Budget, budgetExhausted, type Reservation } from '../../limits/budgets.ts';
import { refuse } from './raw-answer.ts';

/** Number of queued requests at which a socket is paused. Clients that pipeline send a few dozen. */
const HIGH_WATER = 100;
/** Number of queued requests at which it is resumed. */
const LOW_WATER = 50;
/** Bytes that a queued request occupies in addition to its text: Node's objects for the request and the response. */
const OBJECTS = 4096;
/** Bytes of a queued request's body that are read ahead; the rest stays in the kernel. */
const READ_AHEAD = 65_536;
/**
 * Maximum number of bytes that the queued requests of one connection may occupy. A chunk of 64 KiB that was read before the
 * pause took effect can contain 3,600 requests, which occupy 15 MiB.
 */
const MAX_PER_CONNECTION = 67_108_864;
/** Milliseconds until the first probe of a paused socket. Each further probe waits twice as long as the previous one. */
const FIRST_PROBE = 1000;

interface Waiting {
  readonly response: ServerResponse;
  readonly bytes: number;
}

/** The requests of one connection. */
class ConnectionState {
  /** The response to the request that is being handled, or was handled last. */
  current: ServerResponse;
  /** The response to the request that arrived last. */
  latest: ServerResponse;
  readonly waiting: Waiting[] = [];
  /** Bytes that the queued requests occupy. */
  bytes = 0;
  reservation: Reservation | undefined;
  isPauseScheduled = false;
  probe: NodeJS.Timeout | undefined;
  /** Set if no more requests are accepted. The client receives this error after the responses to its earlier requests. */
  overflow: VregError | undefined;
  /** Called instead of the handler if the request that arrived last turns out to be malformed or overdue. */
  onBroken: (() => void) | undefined;

  constructor(first: ServerResponse) {
    this.current = first;
    this.latest = first;
  }
}

const STATE = Symbol('connection state');
type Connection = Duplex & { [STATE]?: ConnectionState };

/** The last request that arrived on a connection, if any. */
export function latestOf(socket: Connection): { request: IncomingMessage; response: ServerResponse } | undefined {
  const response = socket[STATE]?.latest;
  return response && { request: response.req, response };
}

/** Calls `act` when every complete request on a connection has been answered. */
export function whenAnswered(socket: Connection, act: () => void): void {
  const state = socket[STATE];
  if (!state || state.latest.writableFinished) act();
  else if (state.latest.req.complete) state.latest.once('close', act);
  else if (state.latest !== state.current) state.onBroken = act;
  // The incomplete request is being handled, and its response has begun. Further bytes would be mistaken for part of that
  // response.
  else if (state.current.headersSent) socket.destroy();
  else act();
}

export class RequestQueue {
  readonly #handler: RequestListener;
  readonly #budget: Budget;

  /** @param budget limits the queued requests of all connections together */
  constructor(handler: RequestListener, budget: Budget) {
    this.#handler = handler;
    this.#budget = budget;
  }

  /** Handles a request immediately, or after the requests that arrived before it on its connection. */
  readonly accept = (request: IncomingMessage, response: ServerResponse): void => {
    const socket = request.socket as Socket & Connection;
    const state = socket[STATE];
    if (state === undefined) {
      socket[STATE] = new ConnectionState(response);
      this.#handler(request, response);
    } else if (state.waiting.length === 0 && state.latest.writableFinished) {
      state.current = response;
      state.latest = response;
      this.#handler(request, response);
    } else if (!state.overflow) {
      this.#enqueue(socket, state, response);
    }
  };

  #enqueue(socket: Socket, state: ConnectionState, response: ServerResponse): void {
    const bytes = bytesOf(response.req);
    if (state.waiting.length === 0) state.current.once('close', () => this.#next(socket, state));
    if (!this.#budget.fits(bytes) || state.bytes + bytes > MAX_PER_CONNECTION) {
      state.overflow = budgetExhausted(this.#budget);
      pauseAfterChunk(socket, state);
      return;
    }
    state.reservation ??= this.#openReservation(socket, state);
    state.waiting.push({ response, bytes });
    state.latest = response;
    resize(state, bytes);
    state.probe ??= startProbe(socket, state);
    if (state.waiting.length >= HIGH_WATER) pauseAfterChunk(socket, state);
  }

  #openReservation(socket: Socket, state: ConnectionState): Reservation {
    const reservation = this.#budget.reserveAnyway(0);
    socket.once('close', () => {
      reservation.release();
      clearTimeout(state.probe);
      state.waiting.length = 0;
    });
    return reservation;
  }

  #next(socket: Socket, state: ConnectionState): void {
    // Nobody reads the responses to requests that are queued on a closed connection.
    if (socket.destroyed) return;
    const next = state.waiting.shift();
    if (next === undefined) {
      if (state.overflow) refuse(socket, { error: state.overflow });
      return;
    }
    const { response, bytes } = next;
    resize(state, -bytes);
    state.current = response;
    if (state.waiting.length > 0 || state.overflow) response.once('close', () => this.#next(socket, state));
    if (state.waiting.length === 0) state.probe = void clearTimeout(state.probe);
    if (state.waiting.length < LOW_WATER && !state.overflow) resume(socket);
    if (state.onBroken && !response.req.complete) state.onBroken();
    else this.#handler(response.req, response);
  }
}

function resize(state: ConnectionState, delta: number): void {
  state.bytes += delta;
  state.reservation?.resize(state.bytes);
}

/** Pauses the socket after its current chunk is parsed, because Node's parser resumes it after each complete request. */
function pauseAfterChunk(socket: Socket, state: ConnectionState): void {
  if (state.isPauseScheduled) return;
  state.isPauseScheduled = true;
  process.nextTick(() => {
    state.isPauseScheduled = false;
    if (state.waiting.length >= LOW_WATER || state.overflow) socket.pause();
  });
}

/** Resumes a socket, unless Node itself has paused it and the parser until the client reads. */
function resume(socket: Socket & { _paused?: boolean }): void {
  if (!socket._paused) socket.resume();
}

/**
 * Reads one more chunk periodically while requests are queued, because only a read detects that the peer has disconnected. If
 * the chunk contains requests, the socket is paused again. The probes back off so that the chunks do not fill the memory.
 */
function startProbe(socket: Socket, state: ConnectionState, delay = FIRST_PROBE): NodeJS.Timeout {
  return setTimeout(() => {
    if (!state.overflow && state.latest.req.readableLength < READ_AHEAD) resume(socket);
    state.probe = startProbe(socket, state, 2 * delay);
  }, delay).unref();
}

/** Bytes that a queued request occupies, including the part of the body that is read ahead. */
function bytesOf({ url, headers, rawHeaders }: IncomingMessage): number {
  const body = headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : READ_AHEAD;
  const text = rawHeaders.reduce((sum, { length }) => sum + length, url!.length);
  return OBJECTS + text + Math.min(body, READ_AHEAD);
}
