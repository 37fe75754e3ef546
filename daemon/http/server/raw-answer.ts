/**
 * Writes responses directly to a socket, for requests that never reach the app: malformed HTTP, timeouts, plain HTTP on a TLS
 * port.
 */
import { type IncomingHttpHeaders, type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { REQUEST_ID_HEADER } from '../../../src/protocol/api.ts';
import { toErrorBody, type VregError } from '../../../src/protocol/errors.ts';

/** Milliseconds for a refused client to read its response. Then the connection is cut, even if the client is still sending. */
const LINGER = 1000;
/**
 * Maximum number of bytes to read from a refused client in that time. Closing a socket with unread bytes would reset it, and
 * the response could be lost.
 */
const MAX_LINGER = 16_777_216;
/** Milliseconds between two checks of {@link MAX_LINGER}. */
const CHECK_EVERY = 50;

/** A refused request, as far as it could be parsed. */
export interface Refusal {
  error: VregError;
  /** The `Allow` header of a 405. */
  allow?: string;
  asked?: { method: string; url: string };
  headers?: IncomingHttpHeaders;
  /** The request whose body is malformed or overdue, if the app knows it and has not responded yet. */
  request?: IncomingMessage | undefined;
}

/** Payload of the server's `refused` event, for the audit log. */
export interface Refused extends Omit<Refusal, 'allow'> {
  /** Address of the peer. */
  from: string | undefined;
  /** Set by the listener of the `refused` event, and sent to the client. */
  requestId?: string;
}

/** Connections that have been refused. Further bytes on them are read and discarded. */
const refused = new WeakSet<Duplex>();

export function isRefused(socket: Duplex): boolean {
  return refused.has(socket);
}

/**
 * Responds to a request that never reaches the app, and ends the connection. Further calls for the connection have no effect.
 */
export function refuse(socket: Duplex, { allow, ...refusal }: Refusal): void {
  if (refused.has(socket) || !socket.writable) return;
  refused.add(socket);
  const { server, remoteAddress: from } = socket as { server?: Server; remoteAddress?: string };
  const report: Refused = { ...refusal, from };
  server?.emit('refused', report);
  socket.end(rawAnswer(report, allow));
  linger(socket as Socket);
}

/** Formats an error response. */
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

/** Keeps a connection whose writing side has ended open for a short time, so that the client can read the response. */
export function linger(socket: Socket): void {
  const bytesBefore = socket.bytesRead;
  const began = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - began >= LINGER || socket.bytesRead - bytesBefore > MAX_LINGER) socket.destroy();
  }, CHECK_EVERY);
  socket.once('close', () => clearInterval(timer));
}
