/** Responses written straight to a socket, for requests that never become one of the app: broken HTTP, timeouts, plain HTTP on a TLS port. */
import { type IncomingHttpHeaders, type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { REQUEST_ID_HEADER } from '../../../src/protocol/api.ts';
import { toErrorBody, type VregError } from '../../../src/protocol/errors.ts';

/** Milliseconds in which a refused client may read its response; then the connection is cut, even if the client goes on sending. */
const LINGER = 1000;
/** Bytes that a refused client may send meanwhile. Closing the socket with unread bytes would reset it and lose the response. */
const MAX_LINGER = 16_777_216;
/** Milliseconds between two checks of those bytes. */
const CHECK_EVERY = 50;

/** A request that the server refuses, and as much of it as could be read. */
export interface Refusal {
  error: VregError;
  /** The `Allow` header of a 405. */
  allow?: string;
  asked?: { method: string; url: string };
  headers?: IncomingHttpHeaders;
  /** The request whose body is malformed or overdue, if the app knows the request and has not responded yet. */
  request?: IncomingMessage | undefined;
}

/** Payload of a server's `refused` event, for the audit log. */
export interface Refused extends Omit<Refusal, 'allow'> {
  /** Address of the peer. */
  from: string | undefined;
  /** Set by the listener, and sent to the client. */
  requestId?: string;
}

/** Connections that have been refused. Whatever else arrives on them is read and discarded. */
const refused = new WeakSet<Duplex>();

export function isRefused(socket: Duplex): boolean {
  return refused.has(socket);
}

/** Responds to a request that is not the app's and ends the connection. Only the first call for a connection counts. */
export function refuse(socket: Duplex, { allow, ...refusal }: Refusal): void {
  if (refused.has(socket) || !socket.writable) return;
  refused.add(socket);
  const { server, remoteAddress: from } = socket as { server?: Server; remoteAddress?: string };
  const report: Refused = { ...refusal, from };
  server?.emit('refused', report);
  socket.end(rawAnswer(report, allow));
  linger(socket as Socket);
}

/** The bytes of an error response. */
export function rawAnswer({ error, requestId }: Pick<Refused, 'error' | 'requestId'>, allow?: string): string {
  const body = JSON.stringify(toErrorBody(error));
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    'content-type: application/json; charset=utf-8',
    'x-content-type-options: nosniff',
    `content-length: ${Buffer.byteLength(body)}`,
    ...(allow ? [`allow: ${allow}`] : []),
    ...(error.retryAfter === undefined ? [] : [`retry-after: ${error.retryAfter}`]),
    ...(requestId ? [`${REQUEST_ID_HEADER}: ${requestId}`] : []),
    'connection: close',
  ];
  return `${head.join('\r\n')}\r\n\r\n${body}`;
}

/** Gives the client some time to read the response on a connection whose writing side has ended. */
export function linger(socket: Socket): void {
  const bytesBefore = socket.bytesRead;
  const began = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - began >= LINGER || socket.bytesRead - bytesBefore > MAX_LINGER) socket.destroy();
  }, CHECK_EVERY);
  socket.once('close', () => clearInterval(timer));
}
