/**
 * Node's HTTP server as the app runs on it: its time limits, and an `{error}` for what never becomes a request of the
 * app. Without it Node answers those with an empty body, or with nothing.
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
import { REQUEST_ID_HEADER } from '../../../src/protocol/api.ts';
import { toErrorBody, VregError } from '../../../src/protocol/errors.ts';
import { headersTooLarge, MAX_HEADERS, type Refusal, refuseRoute } from '../errors.ts';
import { Turns } from './request-queue.ts';
import { Silence } from './silence.ts';
import type { Tls } from './tls.ts';

/** Milliseconds that a kept-alive connection may be idle: more than a load balancer's usual 60 s, so that it closes first. */
const KEEP_ALIVE = 72_000;
/** How often in its time limit a request is looked at: it may be late by a tenth. */
const CHECKS = 10;
/** Milliseconds in which a refused client may read why; then its connection is cut, whether it goes on sending or not. */
const LINGER = 1000;
/** Bytes that such a client may go on sending meanwhile: it may not have looked yet, and a reset would take the answer away. */
const MAX_LINGER = 16_777_216;
/** Characters that the parser may have taken for the beginning of a method. */
const MAX_METHOD = 32;
/** Milliseconds between two looks at how much it was. */
const LOOK = 50;

/** The requests of each connection: an error of its parser has to wait for the answers before it. */
const turns = new Turns();
/** Connections that have been refused; what else comes on them is read and thrown away. */
const refused = new WeakSet<Duplex>();

/**
 * @param requestTimeout milliseconds for a whole request, headers and body, to arrive
 * @param tls what it speaks https with; without it, it speaks plain HTTP
 */
export function makeServer(handler: RequestListener, requestTimeout: number, tls?: Tls): Server {
  const listener = turns.listener(handler, (socket, error) => refuse(socket, { error }));
  const options: ServerOptions = {
    requestTimeout,
    headersTimeout: requestTimeout,
    connectionsCheckingInterval: Math.ceil(requestTimeout / CHECKS),
    keepAliveTimeout: KEEP_ALIVE,
    // Refused by the app instead, which says why.
    requireHostHeader: false,
  };
  const server: Server = tls ? tls.createServer(options, listener) : createServer(options, listener);
  // Node drops the others unseen, If-Match or Forwarded among them: one too many is there to be refused for.
  server.maxHeadersCount = MAX_HEADERS + 1;
  const sockets = new Set<Socket>();
  // The one that requests come on.
  server.on(tls ? 'secureConnection' : 'connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    const destroySoon = socket.destroySoon.bind(socket);
    // How Node ends a connection after its last answer: with a reset that may overtake the answer where more is sent.
    socket.destroySoon = () => {
      if (turns.latest(socket)?.request.complete !== false) return destroySoon();
      socket.end();
      linger(socket);
    };
  });
  // A client that takes nothing of its answer for so long is gone, or wants it to be kept.
  server.timeout = requestTimeout;
  server.on('timeout', (socket) => {
    const response = turns.latest(socket)?.response;
    const isAwaited = response === undefined || !response.writableEnded;
    if (!isAwaited || socket.writableLength > 0) socket.destroy();
  });
  const closeIdle = server.closeIdleConnections.bind(server);
  const silence = new Silence();
  // To Node a connection is idle when its answer is complete, though most of it may still wait for a slow client; and it is
  // not idle when nothing has come on it yet.
  server.closeIdleConnections = () => {
    for (const socket of sockets) if (!turns.latest(socket) && socket.bytesRead === 0) silence.end(socket);
    if (![...sockets].some(isSending)) closeIdle();
  };
  // An expectation other than 100-continue may be ignored (RFC 9110, 10.1.1).
  server.on('checkExpectation', listener);
  // The app asks for the body, where it takes it.
  server.on('checkContinue', listener);
  server.on('connect', (request, socket) => {
    socket.on('error', () => socket.destroy());
    const asked = askedBy(request);
    const refusal = { ...refuseRoute(asked.method, asked.url), asked, headers: request.headers };
    turns.whenAnswered(socket, () => refuse(socket, refusal));
  });
  return server;
}

function isSending(socket: Socket): boolean {
  const response = turns.latest(socket)?.response;
  if (!response || response.destroyed) return false;
  return response.writableEnded && !response.writableFinished;
}

/** Node's parser refused what came: it is answered after the requests before it, and the connection ends. */
export function answerBrokenRequest(error: BrokenRequest, socket: Duplex): void {
  if (refused.has(socket)) return;
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const refusal = refusalOf(error, (socket as { server?: Server }).server?.requestTimeout ?? 0);
  const latest = turns.latest(socket);
  const broken = latest?.request.complete === false ? latest : undefined;
  if (broken?.response.writableFinished) {
    // It has its answer: another one would be taken for that of the next request.
    (socket as Socket).destroySoon();
    return;
  }
  const request = broken && !broken.response.headersSent ? broken.request : undefined;
  const known = request && { request, headers: request.headers, asked: askedBy(request) };
  turns.whenAnswered(socket, () => refuse(socket, { ...refusal, ...known }));
}

function askedBy({ method = '', url = '' }: IncomingMessage): { method: string; url: string } {
  return { method, url };
}

interface BrokenRequest extends Error {
  code?: string;
  /** The parser's words. */
  reason?: string;
  /** Bytes that the parser gave up on, and how many of them it had read. */
  rawPacket?: unknown;
  bytesParsed?: number;
}

/** Where the word begins that the parser gave up in: after the end of the request before it, whose body may end with anything. */
function beginOfWord(text: string, at: number): number {
  let begin = at;
  while (begin > 0 && at - begin < MAX_METHOD && /[\w-]/.test(text[begin - 1]!)) begin--;
  return begin;
}

/** What is wrong, by Node's names of the parser's errors. */
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

function refusalOf({ code, reason, rawPacket, bytesParsed = 0 }: BrokenRequest, requestTimeout: number): Refusal {
  if (code === 'HPE_HEADER_OVERFLOW') return { error: headersTooLarge() };
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW')
    return {
      error: new VregError('TOO_LARGE', 'the chunk extensions of the body are too large: at most 16 KiB', {
        field: 'body',
      }),
    };
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return {
      error: new VregError('REQUEST_TIMEOUT', `the request did not arrive whole in time: within ${requestTimeout} ms`, {
        hint: 'send the whole request faster, or use a better connection',
      }),
    };
  if (code === 'HPE_INVALID_METHOD') {
    const text = Buffer.isBuffer(rawPacket) ? rawPacket.toString('latin1') : '';
    const line = /^([\w!#$%&'*+.^`|~-]+) (\/\S*) HTTP\/1\.[01]\r?\n/.exec(text.slice(beginOfWord(text, bytesParsed)));
    const [, method, url] = line ?? [];
    if (method !== undefined && !METHODS.includes(method))
      return { ...refuseRoute(method, url!), asked: { method, url: url! } };
  }
  const why = reason ? `: ${reason}` : '';
  const field = FIELDS[code ?? ''];
  return { error: new VregError('INVALID', `the request is not well-formed HTTP${why}`, field ? { field } : {}) };
}

/** What a server's `refused` event tells: a refusal that is not the app's. */
export interface Refused extends Pick<Refusal, 'error' | 'asked' | 'headers'> {
  from: string | undefined;
  /** The one whose body is broken, or did not come in time; the app knows of it, and has not answered it. */
  request?: IncomingMessage | undefined;
  /** Set by the listener. */
  requestId?: string;
}

function refuse(socket: Duplex, refusal: Refusal & Pick<Refused, 'request'>): void {
  if (refused.has(socket) || !socket.writable) return;
  refused.add(socket);
  const { server, remoteAddress: from } = socket as { server?: Server; remoteAddress?: string };
  const { error, allow, ...more } = refusal;
  const told: Refused = { error, from, ...more };
  server?.emit('refused', told);
  const body = JSON.stringify(toErrorBody(error));
  const head = [
    `HTTP/1.1 ${error.status} Refused`,
    'content-type: application/json; charset=utf-8',
    'x-content-type-options: nosniff',
    `content-length: ${Buffer.byteLength(body)}`,
    ...(allow ? [`allow: ${allow}`] : []),
    ...(error.retryAfter === undefined ? [] : [`retry-after: ${error.retryAfter}`]),
    ...(told.requestId ? [`${REQUEST_ID_HEADER}: ${told.requestId}`] : []),
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  linger(socket as Socket);
}

/** Lets a client whose connection has ended on this side read its answer, for a while and while it does not send much. */
function linger(socket: Socket): void {
  const from = socket.bytesRead;
  const began = performance.now();
  const watch = setInterval(() => {
    if (performance.now() - began >= LINGER || socket.bytesRead - from > MAX_LINGER) socket.destroy();
  }, LOOK);
  socket.once('close', () => clearInterval(watch));
}
