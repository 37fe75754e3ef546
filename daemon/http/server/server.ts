/**
 * Node's HTTP server with the limits of the registry. It responds with an `{error}` to everything that never reaches the app.
 * Node would respond with an empty body or not at all.
 */
import {
  createServer,
  type IncomingMessage,
  METHODS,
  type RequestListener,
  type Server,
  type ServerOptions,
} from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { VregError } from '../../../src/protocol/errors.ts';
import type { Budget } from '../../limits/budgets.ts';
import { headersTooLarge, MAX_HEADERS } from '../errors.ts';
import { noRoute } from '../router.ts';
import { IdleSockets } from './idle-sockets.ts';
import { closeIdle, KEEP_ALIVE } from './keep-alive.ts';
import { isRefused, linger, type Refusal, refuse } from './raw-answer.ts';
import { latestOf, RequestQueue, whenAnswered } from './request-queue.ts';
import type { Tls } from './tls.ts';

/** Number of checks for overdue requests per request timeout: a 408 is late by at most a tenth of the timeout. */
const CHECKS = 10;
/** Maximum length in characters of a word that the parser may have mistaken for the beginning of a method. */
const MAX_METHOD = 32;
/** Milliseconds between two closes of idle connections while a server drains. */
const SWEEP_EVERY = 50;

export interface HttpServerOptions {
  /** Milliseconds within which a complete request, headers and body, must arrive. */
  requestTimeout: number;
  /** Budget for requests that are queued behind another one on the same connection. */
  pipelined: Budget;
  /** If set, the server uses https. */
  tls?: Tls | undefined;
}

export function createHttpServer(
  handler: RequestListener,
  { requestTimeout, pipelined, tls }: HttpServerOptions,
): Server {
  const { accept } = new RequestQueue(handler, pipelined);
  const options: ServerOptions & { optimizeEmptyRequests: boolean } = {
    requestTimeout,
    headersTimeout: requestTimeout,
    connectionsCheckingInterval: Math.ceil(requestTimeout / CHECKS),
    // Replaced by closeIdle().
    keepAliveTimeout: 0,
    // Node 24.12 and newer: no stream events for requests without a body, which the app does not read.
    optimizeEmptyRequests: true,
    // The app rejects a request without a Host header with a more specific error.
    requireHostHeader: false,
  };
  const server: Server = tls ? tls.createServer(options, accept) : createServer(options, accept);
  // Node silently drops headers beyond its limit, for example If-Match. A limit that is one higher lets the app detect that
  // there are too many.
  server.maxHeadersCount = MAX_HEADERS + 1;
  // The app itself sends 100 Continue when it needs the body; other expectations may be ignored (RFC 9110, 10.1.1).
  server.on('checkContinue', accept);
  server.on('checkExpectation', accept);
  server.on('clientError', answerClientError);
  server.on('connect', (request, socket) => {
    socket.on('error', () => socket.destroy());
    const asked = askedBy(request);
    whenAnswered(socket, () =>
      refuse(socket, { ...noRoute(asked.method, asked.url), asked, headers: request.headers }),
    );
  });
  const sockets = trackSockets(server, tls ? 'secureConnection' : 'connection');
  destroyStalled(server, sockets, requestTimeout);
  closeIdle(server, sockets, KEEP_ALIVE);
  keepBusyOpen(server, sockets);
  return server;
}

/**
 * Destroys connections whose client has not read any of its response for `timeout` milliseconds. One timer checks all
 * connections, whereas Node's `server.timeout` would set two timers per request.
 */
function destroyStalled(server: Server, sockets: ReadonlySet<Socket>, timeout: number): void {
  const stalled = new Map<Socket, { bytesSent: number; since: number }>();
  const look = () => {
    const now = performance.now();
    for (const socket of stalled.keys()) if (socket.writableLength === 0) stalled.delete(socket);
    for (const socket of sockets) {
      if (socket.writableLength === 0) continue;
      // Node counts buffered bytes as written.
      const bytesSent = socket.bytesWritten - socket.writableLength;
      const before = stalled.get(socket);
      if (before?.bytesSent !== bytesSent) stalled.set(socket, { bytesSent, since: now });
      else if (now - before.since >= timeout) socket.destroy();
    }
  };
  const timer = setInterval(look, Math.ceil(timeout / CHECKS)).unref();
  server.once('close', () => clearInterval(timer));
}

/** @param event the server's event for a new socket on which requests will arrive */
function trackSockets(server: Server, event: 'connection' | 'secureConnection'): ReadonlySet<Socket> {
  const sockets = new Set<Socket>();
  server.on(event, (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    if (event === 'secureConnection') bufferWhilePaused(socket);
    // `resume` takes effect a tick later. If the socket has been paused again by then, Node's parser would continue to read.
    socket.on('resume', () => {
      if (socket.isPaused()) socket.emit('pause');
    });
    const destroySoon = socket.destroySoon.bind(socket);
    // Node destroys the socket after the last response. If the client is still sending, the reset may overtake that response.
    socket.destroySoon = () => {
      if (latestOf(socket)?.request.complete !== false) return destroySoon();
      socket.end();
      linger(socket);
    };
  });
  return sockets;
}

/**
 * A paused TLS connection still emits the bytes that it has decrypted. They would reach the paused parser and be lost. A `data`
 * listener makes Node pass them through the stream, which buffers them. It is added at the first pause, because it makes requests
 * a quarter slower, and few clients cause a pause.
 */
function bufferWhilePaused(socket: Socket): void {
  const pause = socket.pause.bind(socket);
  socket.pause = () => {
    pause();
    if (socket.listenerCount('data', ignore) === 0) socket.on('data', ignore);
    return socket;
  };
}

function ignore(): void {}

/**
 * Corrects Node's notion of idle connections. A connection whose response is complete but not yet sent is not idle, and a
 * connection on which nothing has arrived is idle.
 */
function keepBusyOpen(server: Server, sockets: ReadonlySet<Socket>): void {
  const closeIdle = server.closeIdleConnections.bind(server);
  const idle = new IdleSockets();
  server.closeIdleConnections = () => {
    for (const socket of sockets) if (!latestOf(socket) && socket.bytesRead === 0) idle.end(socket);
    if (![...sockets].some(isSending)) closeIdle();
  };
}

function isSending(socket: Socket): boolean {
  const response = latestOf(socket)?.response;
  if (!response || response.destroyed) return false;
  return response.writableEnded && !response.writableFinished;
}

/**
 * Stops accepting connections and resolves when all accepted requests have been answered and all connections are closed.
 * @param deadline milliseconds after which the remaining connections are cut, because a closing server ignores its request
 * timeout
 */
export async function drain(servers: readonly Server[], deadline: number): Promise<void> {
  const closed = servers.map((server) => new Promise((resolve) => server.close(resolve)));
  // A connection whose last response announced keep-alive must be closed when it becomes idle.
  const sweep = setInterval(() => {
    for (const server of servers) server.closeIdleConnections();
  }, SWEEP_EVERY);
  const cut = setTimeout(() => {
    for (const server of servers) server.closeAllConnections();
  }, deadline);
  await Promise.all(closed);
  clearInterval(sweep);
  clearTimeout(cut);
}

interface ClientError extends Error {
  code?: string;
  /** The parser's error message. */
  reason?: string;
  /** The bytes in which the parser failed; `bytesParsed` of them had been parsed. */
  rawPacket?: unknown;
  bytesParsed?: number;
}

/** Responds to malformed and overdue requests, after the requests that arrived before them, and ends the connection. */
function answerClientError(error: ClientError, socket: Duplex): void {
  if (isRefused(socket)) return;
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const refusal = refusalOf(error, (socket as { server?: Server }).server?.requestTimeout ?? 0);
  const latest = latestOf(socket);
  const broken = latest?.request.complete === false ? latest : undefined;
  if (broken?.response.writableFinished) {
    // This request was answered before its body arrived. A second response would be mistaken for the response to the next
    // request.
    (socket as Socket).destroySoon();
    return;
  }
  const request = broken && !broken.response.headersSent ? broken.request : undefined;
  const known = request && { request, headers: request.headers, asked: askedBy(request) };
  whenAnswered(socket, () => refuse(socket, { ...refusal, ...known }));
}

function askedBy({ method = '', url = '' }: IncomingMessage): { method: string; url: string } {
  return { method, url };
}

/**
 * Offset of the start of the token at which the HTTP parser failed. The bytes before it belong to the previous request, whose
 * body may be any text.
 */
function beginOfWord(text: string, at: number): number {
  let begin = at;
  while (begin > 0 && at - begin < MAX_METHOD && /[\w-]/.test(text[begin - 1]!)) begin--;
  return begin;
}

/** The `field` of an error, by the error code of Node's parser. */
const FIELDS: Readonly<Record<string, string>> = {
  HPE_INVALID_METHOD: 'method',
  HPE_INVALID_URL: 'url',
  HPE_INVALID_VERSION: 'version',
  HPE_INVALID_HEADER_TOKEN: 'headers',
  HPE_CR_EXPECTED: 'headers',
  HPE_INVALID_CONTENT_LENGTH: 'content-length',
  HPE_UNEXPECTED_CONTENT_LENGTH: 'content-length',
  HPE_INVALID_TRANSFER_ENCODING: 'transfer-encoding',
  HPE_INVALID_CHUNK_SIZE: 'body',
  HPE_STRICT: 'body',
};

function refusalOf({ code, reason, rawPacket, bytesParsed = 0 }: ClientError, requestTimeout: number): Refusal {
  if (code === 'HPE_HEADER_OVERFLOW') return { error: headersTooLarge() };
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW')
    return {
      error: new VregError('TOO_LARGE', 'the chunk extensions of the body are too large (limit 16 KiB)', {
        field: 'body',
      }),
    };
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return {
      error: new VregError(
        'REQUEST_TIMEOUT',
        `the request was not received completely in time (limit ${requestTimeout} ms)`,
        {
          hint: 'send it faster, or raise --max-body on the daemon, which also raises this limit',
        },
      ),
    };
  if (code === 'HPE_INVALID_METHOD') {
    const text = Buffer.isBuffer(rawPacket) ? rawPacket.toString('latin1') : '';
    const line = /^([\w!#$%&'*+.^`|~-]+) (\/\S*) HTTP\/1\.[01]\r?\n/.exec(text.slice(beginOfWord(text, bytesParsed)));
    const [, method, url] = line ?? [];
    if (method !== undefined && !METHODS.includes(method))
      return { ...noRoute(method, url!), asked: { method, url: url! } };
  }
  const why = reason ? `: ${reason}` : '';
  const field = FIELDS[code ?? ''];
  return { error: new VregError('INVALID', `the request is not well-formed HTTP${why}`, field ? { field } : {}) };
}
