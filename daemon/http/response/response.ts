/** Sends the app's responses, with the headers that are common to all of them. */
import type { ServerResponse } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import {
  AGE_HEADER,
  CLIENT_HEADER,
  LEASE_HEADER,
  POSITION_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../../src/protocol/api.ts';
import type { Warming } from '../../registry/explain.ts';
import { auditWhenClosed } from '../audit.ts';
import type { RequestContext } from '../context.ts';
import { KEEP_ALIVE } from '../server/keep-alive.ts';
import { checkedLine, headerLine, headerLines, respondOpen, writeHead } from './response-head.ts';
import { reserveText, SnapshotBody } from './streaming.ts';

export const JSON_TYPE = 'application/json; charset=utf-8';

/**
 * Prevents a browser that opens a response from executing, embedding, caching or leaking it, and from sniffing its media type.
 * Sent only with responses to GET and HEAD, because browsers open no others and the headers would make heartbeats 10 % slower.
 */
export const BROWSER_LINES = headerLines([
  'content-security-policy',
  "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy',
  'no-referrer',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
]);

const JSON_LINE = headerLine('content-type', JSON_TYPE);

/** Tells clients how long a connection may be idle, in seconds. */
const KEEP_ALIVE_LINE = headerLine('keep-alive', `timeout=${KEEP_ALIVE / 1000}`);
/** Node adds `Connection: keep-alive` only to a head that it writes itself. */
const OPEN_LINES = headerLine('connection', 'keep-alive') + KEEP_ALIVE_LINE;

/** Step: sends the handler's result, unless the handler has written the response itself. */
export function send(ctx: RequestContext): void {
  const { result, response, services } = ctx;
  if (result === undefined) return;
  const { status, body, type = JSON_TYPE, etag, length, headers, warming } = result;
  if (typeof body === 'string') reserveText(response, services.responses, body, !ctx.isRead);
  let lines = commonHeaders(ctx, status === 304 ? undefined : type, result.browserHeaders);
  if (etag !== undefined) lines += headerLine('etag', `"${etag}"`);
  if (warming !== undefined) lines += headerLine(WARMING_HEADER, formatWarming(warming));
  if (headers !== undefined) for (const name in headers) lines += checkedLine(name, headers[name]!);
  if (status === 304) respondEmpty(ctx, status, lines);
  else if (typeof body === 'string' || Buffer.isBuffer(body)) respond(ctx, status, lines, body, length);
  else {
    if (length !== undefined) lines += headerLine('content-length', length);
    if (body instanceof SnapshotBody) respondWithSnapshot(ctx, status, lines, body);
    else respondWithStream(ctx, status, lines, body);
  }
}

/** The lines of the common headers: for browsers, for all clients, and for vreg clients, in this order. */
export function commonHeaders(ctx: RequestContext, type?: string, forBrowsers?: readonly string[]): string {
  let lines = '';
  if (ctx.isRead) lines = forBrowsers === undefined ? BROWSER_LINES : headerLines(forBrowsers);
  lines += headerLine(REQUEST_ID_HEADER, ctx.requestId);
  if (type === JSON_TYPE) lines += JSON_LINE;
  else if (type !== undefined) lines += headerLine('content-type', type);
  if (isVregClient(ctx)) {
    const { registry, version } = ctx.services;
    lines += headerLine(VERSION_HEADER, version) + headerLine(LEASE_HEADER, registry.staleAfter);
    lines += headerLine(REGISTRY_HEADER, registry.id);
  }
  if (ctx.position !== undefined) lines += headerLine(POSITION_HEADER, ctx.position);
  if (ctx.isRead && ctx.services.registry.age > 0)
    lines += headerLine(AGE_HEADER, Math.ceil(ctx.services.registry.age / 1000));
  if (ctx.extraHeaders !== undefined) lines += headerLines(ctx.extraHeaders);
  return lines;
}

/**
 * HTTP/1.1 keeps connections open by default, and a response to a heartbeat should be short, so its head does not mention it. A
 * vreg client reads the header `keep-alive`.
 */
function isShort(ctx: RequestContext): boolean {
  return ctx.route?.isHeartbeat === true && !isVregClient(ctx) && ctx.request.httpVersion === '1.1';
}

/** Lets Node write the head, because it closes the connection after the response, or has no length. */
function writeAnyHead(ctx: RequestContext, status: number, lines: string): ServerResponse {
  const { response } = ctx;
  if (ctx.mustClose || ctx.services.stopping.aborted) lines += headerLine('connection', 'close');
  else if (isShort(ctx)) response.removeHeader('connection');
  else if (response.shouldKeepAlive) lines += KEEP_ALIVE_LINE;
  return writeHead(response, status, lines);
}

/** True if the connection stays open after the response. */
function staysOpen({ response, mustClose, services, headers }: RequestContext): boolean {
  // Node may close a connection whose client expects 100 Continue.
  return response.shouldKeepAlive && !mustClose && !services.stopping.aborted && headers.expect === undefined;
}

/** Whether the client is vreg, which reads the headers with facts about the registry. */
export function isVregClient({ headers }: RequestContext): boolean {
  return headers[CLIENT_HEADER] === '1';
}

function formatWarming({ seconds, suspects }: Warming): string {
  return suspects > 0 ? `${seconds}; suspect=${suspects}` : String(seconds);
}

/**
 * Sends a complete response. For a HEAD request, Node omits the body.
 * @param lines of the head, see {@link headerLine}
 * @param length in bytes
 */
export function respond(
  ctx: RequestContext,
  status: number,
  lines: string,
  body: string | Buffer,
  length = Buffer.byteLength(body),
): void {
  decide(ctx, status);
  const { response } = ctx;
  if (response.destroyed) return;
  const all = lines + headerLine('content-length', length);
  if (staysOpen(ctx))
    respondOpen(response, status, isShort(ctx) ? all : all + OPEN_LINES, body, length === body.length);
  else writeAnyHead(ctx, status, all).end(body);
}

/** Sends a response without a body. */
export function respondEmpty(ctx: RequestContext, status: number, lines = commonHeaders(ctx)): void {
  decide(ctx, status);
  if (!ctx.response.destroyed) writeAnyHead(ctx, status, lines).end();
}

/**
 * Sends a body as fast as the client reads it. If the client leaves, destroys the source. If the source fails, destroys the
 * connection, so that the client does not mistake a partial body for a complete one.
 */
function respondWithStream(ctx: RequestContext, status: number, lines: string, body: Readable): void {
  const { response, services, request } = ctx;
  decide(ctx, status);
  body.on('error', (err) => {
    if (!response.destroyed) services.log.error({ err, requestId: ctx.requestId }, 'a response was cut off');
  });
  if (response.destroyed || request.method === 'HEAD') body.destroy();
  if (response.destroyed) return;
  writeAnyHead(ctx, status, lines).on('error', ignore);
  // Streams, budgets, tokens, the audit log and the pipelining queue all listen for its end. Node warns about more than 10
  // listeners.
  response.setMaxListeners(0);
  if (request.method === 'HEAD') response.end();
  else pipeline(body, response, () => {});
}

/** Sends a list as {@link respondWithStream}. */
function respondWithSnapshot(ctx: RequestContext, status: number, lines: string, body: SnapshotBody): void {
  const { response, services, request } = ctx;
  decide(ctx, status);
  if (response.destroyed) return;
  writeAnyHead(ctx, status, lines).on('error', ignore).setMaxListeners(0);
  if (request.method === 'HEAD') response.end();
  else {
    body.send(response, (err) => {
      services.log.error({ err, requestId: ctx.requestId }, 'a response was cut off');
      response.destroy();
    });
  }
}

/** Starts a response that the handler writes itself instead of returning a result. */
export function openStream(ctx: RequestContext, headers: Readonly<Record<string, string>>): ServerResponse {
  const { 'content-type': type = JSON_TYPE, ...others } = headers;
  decide(ctx, 200);
  let lines = commonHeaders(ctx, type);
  for (const name in others) lines += checkedLine(name, others[name]!);
  return writeAnyHead(ctx, 200, lines).on('error', ignore);
}

/** Writing to a client that has left emits an error. The `close` event that follows handles it. */
function ignore(): void {}

/** Records the outcome of a request. */
function decide(ctx: RequestContext, status: number): void {
  ctx.status = status;
  ctx.services.requests.count(ctx, status, ctx.errorCode);
  auditWhenClosed(ctx);
}
