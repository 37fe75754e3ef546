/**
 * HTTP/1.1 pipelining. Node hands over every request as soon as it is parsed, however many others on the same connection have
 * no response yet. The queue handles the requests of a connection one after the other and pauses a socket that sends too many.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { VregError } from '../../../src/protocol/errors.ts';
import { type Budget, budgetExhausted, type Reservation } from '../../limits.ts';
import { refuse } from './raw-answer.ts';

/** Waiting requests at which a socket is paused: clients that pipeline send a few dozen. */
const HIGH_WATER = 100;
/** Waiting requests at which it is resumed. */
const LOW_WATER = 50;
/** Bytes that a waiting request occupies besides its text: Node's objects for the request and its response. */
const OBJECTS = 4096;
/** Bytes of a waiting request's body that are read ahead; the rest waits in the kernel. */
const READ_AHEAD = 65_536;
/**
 * Bytes that the waiting requests of one connection may occupy. A chunk of 64 KiB that was read before the pause took effect
 * can hold 3,600 requests, which occupy 15 MiB.
 */
const MAX_PER_CONNECTION = 67_108_864;
/** Milliseconds until the first probe of a paused socket; each following probe waits twice as long as the one before. */
const FIRST_PROBE = 1000;

interface Waiting {
  readonly response: ServerResponse;
  readonly bytes: number;
}

/** The requests of one connection. */
class ConnectionState {
  /** The request that is being handled, or was handled last. */
  current: ServerResponse;
  /** The request that arrived last. */
  latest: ServerResponse;
  readonly waiting: Waiting[] = [];
  /** Bytes that the waiting requests occupy. */
  bytes = 0;
  reservation: Reservation | undefined;
  isPauseScheduled = false;
  probe: NodeJS.Timeout | undefined;
  /** Why no more requests are accepted. The client gets this error after the responses that it is waiting for. */
  overflow: VregError | undefined;
  /** Called instead of the handler for a request that turns out to be malformed or overdue. */
  onBroken: (() => void) | undefined;

  constructor(first: ServerResponse) {
    this.current = first;
    this.latest = first;
  }
}

const STATE = Symbol('connection state');
type Connection = Duplex & { [STATE]?: ConnectionState };

/** The request of a connection that arrived last, if any. */
export function latestOf(socket: Connection): { request: IncomingMessage; response: ServerResponse } | undefined {
  const response = socket[STATE]?.latest;
  return response && { request: response.req, response };
}

/** Calls back once every complete request of a connection has its response. */
export function whenAnswered(socket: Connection, act: () => void): void {
  const state = socket[STATE];
  if (!state || state.latest.writableFinished) act();
  else if (state.latest.req.complete) state.latest.once('close', act);
  else if (state.latest !== state.current) state.onBroken = act;
  // The incomplete request is being handled. Bytes written into a response that has begun would be taken for a part of it.
  else if (state.current.headersSent) socket.destroy();
  else act();
}

export class RequestQueue {
  readonly #handler: RequestListener;
  readonly #budget: Budget;

  /** @param budget of the waiting requests of all connections */
  constructor(handler: RequestListener, budget: Budget) {
    this.#handler = handler;
    this.#budget = budget;
  }

  /** Handles a request now, or after those that arrived before it on its connection. */
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
    // The requests that wait on a connection that is gone are not handled: nobody wants their responses.
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

/** Pauses the socket when its current chunk is parsed: Node's parser resumes it after each complete request. */
function pauseAfterChunk(socket: Socket, state: ConnectionState): void {
  if (state.isPauseScheduled) return;
  state.isPauseScheduled = true;
  process.nextTick(() => {
    state.isPauseScheduled = false;
    if (state.waiting.length >= LOW_WATER || state.overflow) socket.pause();
  });
}

/** Resumes a socket, unless Node has paused it with its parser until the client reads. */
function resume(socket: Socket & { _paused?: boolean }): void {
  if (!socket._paused) socket.resume();
}

/**
 * Reads one more chunk from time to time while requests wait: only a read notices that the peer has left. If the chunk holds
 * requests, they pause the socket again. The probes become rarer, so that they do not fill the memory.
 */
function startProbe(socket: Socket, state: ConnectionState, delay = FIRST_PROBE): NodeJS.Timeout {
  return setTimeout(() => {
    if (!state.overflow && state.latest.req.readableLength < READ_AHEAD) resume(socket);
    state.probe = startProbe(socket, state, 2 * delay);
  }, delay).unref();
}

/** Bytes that a waiting request occupies, as far as it is read before its turn. */
function bytesOf({ url, headers, rawHeaders }: IncomingMessage): number {
  const body = headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : READ_AHEAD;
  const text = rawHeaders.reduce((sum, { length }) => sum + length, url!.length);
  return OBJECTS + text + Math.min(body, READ_AHEAD);
}
