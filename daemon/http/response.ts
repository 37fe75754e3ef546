/** Sends the app's responses, with the headers that are common to all of them. */
import type { OutgoingHttpHeader, ServerResponse } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import {
  CLIENT_HEADER,
  LEASE_HEADER,
  POSITION_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../src/protocol/api.ts';
import type { Warming } from '../registry/explain.ts';
import { auditWhenClosed } from './audit.ts';
import type { RequestContext } from './context.ts';
import { KEEP_ALIVE } from './server/keep-alive.ts';
import { reserveText, SnapshotBody } from './streaming.ts';

export const JSON_TYPE = 'application/json; charset=utf-8';

/**
 * Prevents a browser that opens a response from executing, embedding, caching or leaking it, and from sniffing its media type.
 * Sent only with responses to GET and HEAD, because browsers open no others and the headers would make heartbeats 10 % slower.
 */
const BROWSER_HEADERS: readonly string[] = [
  'content-security-policy',
  "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy',
  'no-referrer',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
];

/** Tells clients how long a connection may be idle, in seconds. */
const KEEP_ALIVE_HINT = `timeout=${KEEP_ALIVE / 1000}`;

/** Header names and values, alternating, as `writeHead` accepts them. */
type HeaderList = OutgoingHttpHeader[];

/** Step: sends the handler's result, unless the handler has written the response itself. */
export function send(ctx: RequestContext): void {
  const { result, response, services } = ctx;
  if (result === undefined) return;
  const { status, body, type = JSON_TYPE, etag, length, headers, warming } = result;
  if (typeof body === 'string') reserveText(response, services.responses, body, !ctx.isRead);
  const list = commonHeaders(ctx, status === 304 ? undefined : type);
  if (etag !== undefined) list.push('etag', `"${etag}"`);
  if (warming !== undefined) list.push(WARMING_HEADER, formatWarming(warming));
  if (headers !== undefined) for (const name in headers) list.push(name, headers[name]!);
  if (status === 304) respondEmpty(ctx, status, list);
  else if (typeof body === 'string') respond(ctx, status, list, body, length);
  else {
    if (length !== undefined) list.push('content-length', length);
    if (body instanceof SnapshotBody) respondWithSnapshot(ctx, status, list, body);
    else respondWithStream(ctx, status, list, body);
  }
}

/** The common headers: for all clients, for vreg clients, for browsers, and for this request, in this order. */
export function commonHeaders(ctx: RequestContext, type?: string): HeaderList {
  const { registry, version, stopping } = ctx.services;
  const { response } = ctx;
  const list: HeaderList = ctx.isRead ? [...BROWSER_HEADERS] : [];
  let isShort = false;
  list.push(REQUEST_ID_HEADER, ctx.requestId);
  if (type !== undefined) list.push('content-type', type);
  if (isVregClient(ctx)) {
    list.push(VERSION_HEADER, version, LEASE_HEADER, String(registry.staleAfter));
    list.push(REGISTRY_HEADER, registry.id);
  } else if (ctx.route?.isHeartbeat && ctx.request.httpVersion === '1.1') {
    // HTTP/1.1 keeps connections open by default, and a response to a heartbeat should be short.
    response.removeHeader('connection');
    isShort = true;
  }
  if (ctx.position !== undefined) list.push(POSITION_HEADER, ctx.position);
  if (ctx.extraHeaders !== undefined) list.push(...ctx.extraHeaders);
  if (ctx.mustClose || stopping.aborted) list.push('connection', 'close');
  else if (response.shouldKeepAlive && !isShort) list.push('keep-alive', KEEP_ALIVE_HINT);
  return list;
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
 * @param length in bytes
 */
export function respond(
  ctx: RequestContext,
  status: number,
  headers: HeaderList,
  body: string,
  length = Buffer.byteLength(body),
): void {
  decide(ctx, status);
  if (ctx.response.destroyed) return;
  headers.push('content-length', length);
  ctx.response.writeHead(status, headers).end(body);
}

/** Sends a response without a body. */
export function respondEmpty(ctx: RequestContext, status: number, headers = commonHeaders(ctx)): void {
  decide(ctx, status);
  if (!ctx.response.destroyed) ctx.response.writeHead(status, headers).end();
}

/**
 * Sends a body as fast as the client reads it. If the client leaves, destroys the source. If the source fails, destroys the
 * connection, so that the client does not mistake a partial body for a complete one.
 */
function respondWithStream(ctx: RequestContext, status: number, headers: HeaderList, body: Readable): void {
  const { response, services, request } = ctx;
  decide(ctx, status);
  body.on('error', (err) => {
    if (!response.destroyed) services.log.error({ err, requestId: ctx.requestId }, 'a response was cut off');
  });
  if (response.destroyed || request.method === 'HEAD') body.destroy();
  if (response.destroyed) return;
  response.writeHead(status, headers).on('error', ignore);
  // Streams, budgets, tokens, the audit log and the pipelining queue all listen for its end. Node warns about more than 10
  // listeners.
  response.setMaxListeners(0);
  if (request.method === 'HEAD') response.end();
  else pipeline(body, response, () => {});
}

/** Sends a list as {@link respondWithStream}. */
function respondWithSnapshot(ctx: RequestContext, status: number, headers: HeaderList, body: SnapshotBody): void {
  const { response, services, request } = ctx;
  decide(ctx, status);
  if (response.destroyed) return;
  response.writeHead(status, headers).on('error', ignore).setMaxListeners(0);
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
  const list = commonHeaders(ctx, type);
  for (const name in others) list.push(name, others[name]!);
  return ctx.response.writeHead(200, list).on('error', ignore);
}

/** Writing to a client that has left emits an error. The `close` event that follows handles it. */
function ignore(): void {}

/** Records the outcome of a request. */
function decide(ctx: RequestContext, status: number): void {
  ctx.status = status;
  auditWhenClosed(ctx);
}
