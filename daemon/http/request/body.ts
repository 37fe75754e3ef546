/** Reads and parses request bodies, and checks their media type, encoding, size and depth. */
import { VregError } from '../../../src/protocol/errors.ts';
import { findFlaw } from '../../../src/protocol/json.ts';
import { UNCOUNTED } from '../../limits/budgets.ts';
import type { RequestContext, Route } from '../context.ts';

/**
 * Bodies with one of these types, or without a type, are read as JSON. The original registry (vers-agent-services) ignores the
 * type, and `curl -d` and `fetch` send the last two by default.
 */
const JSON_TYPES: ReadonlySet<string> = new Set([
  'application/json',
  'application/x-www-form-urlencoded',
  'text/plain',
]);
const JSON_SUFFIX = /^application\/[\w.-]+\+json$/;
/** A media type without its parameters (RFC 9110, 8.3.1). */
const MEDIA_TYPE = /^\s*([\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+)\s*(?:;|$)/;

/**
 * Step: finds out whether the request has a body. If it may be endless or too large, marks the connection to be closed after the
 * response, so that the body need not be read completely.
 */
export function limitConnection(ctx: RequestContext): void {
  const { 'content-length': length, 'transfer-encoding': coding } = ctx.headers;
  // RFC 9112, 6: a request has a body if it announces a length or a transfer coding.
  if (length === undefined && coding === undefined) return;
  // The body of a GET has no meaning and is not read; its response may be held for as long as its client likes.
  ctx.hasBody = !ctx.isRead && (coding !== undefined || length !== '0');
  if (coding !== undefined || Number(length) > maxBodyOf(ctx)) ctx.mustClose = true;
}

/** Maximum size of the body in bytes. */
function maxBodyOf({ route, services }: RequestContext): number {
  return Math.min(route?.maxBody ?? Infinity, Math.max(route?.listBody ?? 0, services.maxBody));
}

/**
 * Step: rejects a body whose headers declare anything but plain JSON, unless the route can ignore it.
 * @throws VregError UNSUPPORTED_MEDIA_TYPE
 */
export function checkMediaType(ctx: RequestContext): void {
  if (!ctx.hasBody || isIgnored(ctx)) return;
  const flaw = findMediaFlaw(ctx.headers);
  if (flaw) throw refusedBody(ctx, flaw);
}

/** True if the headers already show that the route ignores the body. Its size is limited all the same. */
function isIgnored({ method, route, headers }: RequestContext): boolean {
  return method === 'DELETE' || (route?.readsBody !== undefined && findMediaFlaw(headers) !== undefined);
}

/** @returns the error for a body that is not declared as plain JSON */
function findMediaFlaw(headers: RequestContext['headers']): VregError | undefined {
  const { 'content-encoding': encoding, 'content-type': type } = headers;
  if (encoding !== undefined && !/^\s*(identity)?\s*$/i.test(encoding))
    return unsupported('content-encoding', `content-encoding ${encoding} is not supported: send plain JSON`);
  if (type && !isJson(type))
    return unsupported('content-type', `content-type ${type} is not supported: send application/json`);
  return undefined;
}

function isJson(contentType: string): boolean {
  const [, mediaType = ''] = MEDIA_TYPE.exec(contentType.toLowerCase()) ?? [];
  return JSON_TYPES.has(mediaType) || JSON_SUFFIX.test(mediaType);
}

function unsupported(field: string, message: string): VregError {
  return new VregError('UNSUPPORTED_MEDIA_TYPE', message, { field });
}

/** The client may still be sending the body, so the connection cannot serve another request. */
function refusedBody(ctx: RequestContext, error: VregError): VregError {
  ctx.mustClose = true;
  return error;
}

/** Step: reserves memory for a large body until the response is sent. @throws VregError TOO_LARGE, TOO_MANY_REQUESTS */
export function reserveBody(ctx: RequestContext): void {
  if (!ctx.hasBody) return;
  const { headers, services, response } = ctx;
  const { bodies } = services;
  const maxBody = maxBodyOf(ctx);
  const length = Number(headers['content-length'] ?? 0);
  if (length > maxBody) throw tooLarge(ctx);
  if (isIgnored(ctx)) return;
  // The length of a chunked body is unknown.
  const size = headers['transfer-encoding'] === undefined ? length : maxBody;
  if (size <= UNCOUNTED.body) return;
  const reservation = bodies.reserve(size);
  response.once('close', () => reservation.release());
}

/**
 * Step: now that the request is accepted, sends 100 Continue to a client that waits for it before it sends the body (RFC 9110,
 * 10.1.1).
 */
export function sendContinue(ctx: RequestContext): void {
  const { expect } = ctx.headers;
  if (expect === undefined || ctx.isRead || ctx.request.httpVersion !== '1.1') return;
  // The same pattern that Node uses for its `checkContinue` event.
  if (/(?:^|\W)100-continue(?:$|\W)/i.test(expect)) ctx.response.writeContinue();
}

/** Step: reads the body, if there is one, and parses it, unless the route ignores it. */
export function readBody(
  ctx: RequestContext,
  resume: (ctx: RequestContext, error?: unknown) => void,
): 'waiting' | undefined {
  if (!ctx.hasBody) return undefined;
  const { request, services, route } = ctx;
  const isWanted = !isIgnored(ctx);
  const maxBody = maxBodyOf(ctx);
  const chunks: Buffer[] = [];
  let size = 0;
  let isOver = false;
  const finish = (error?: VregError) => {
    if (isOver) return;
    isOver = true;
    if (error) return resume(ctx, error);
    const parse = () => {
      try {
        const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size);
        ctx.body = route?.listBody === undefined ? parseBody(bytes, route?.readsBody) : bytes;
      } catch (error) {
        return resume(ctx, refusedBody(ctx, error as VregError));
      }
      resume(ctx);
    };
    if (!isWanted) resume(ctx);
    else if (size <= UNCOUNTED.body) parse();
    // Parsing a large body and handling its value can take 100 ms.
    else void services.scheduler.run(parse);
  };
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > maxBody) {
      chunks.length = 0;
      finish(tooLarge(ctx));
    } else if (isWanted) chunks.push(chunk);
  });
  request.once('end', () => finish());
  // Every request emits `close`. Creating an error takes 10 µs, so do it only if the body is incomplete.
  const abort = () => isOver || finish(aborted());
  request.on('error', abort);
  request.once('close', abort);
  return 'waiting';
}

function tooLarge(ctx: RequestContext): VregError {
  const message = `body is too large (limit ${maxBodyOf(ctx)} bytes)`;
  return refusedBody(ctx, new VregError('TOO_LARGE', message, { field: 'body' }));
}

/** The error for a client that left. Only the audit log shows it. */
function aborted(): VregError {
  return invalidBody('the client left before it had sent the complete body');
}

export function invalidBody(message: string): VregError {
  return new VregError('INVALID', message, { field: 'body' });
}

/** Rejects invalid UTF-8 and skips a byte order mark. */
const decoder = new TextDecoder('utf-8', { fatal: true });

/**
 * @param readsBody selects the bodies to read, as {@link Route.readsBody}
 * @returns undefined for a body that is not read, and for an empty one: a client may announce a chunked body and send nothing
 * @throws VregError INVALID
 */
export function parseBody(body: Buffer, readsBody?: Route['readsBody']): unknown {
  if (body.length === 0) return undefined;
  let value: unknown;
  try {
    value = parseJson(body);
  } catch (error) {
    if (readsBody) return undefined;
    throw error;
  }
  if (readsBody && !readsBody(value)) return undefined;
  rejectFlaw(value);
  return value;
}

/** @throws VregError INVALID for a value that {@link findFlaw} does not accept */
export function rejectFlaw(value: unknown): void {
  const flaw = findFlaw(value);
  if (flaw) throw invalidBody(`body ${flaw}`);
}

/** @throws VregError INVALID */
export function parseJson(body: Buffer): unknown {
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    throw invalidBody('body is not valid UTF-8');
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw invalidBody(`body is not valid JSON: ${(error as Error).message}`);
  }
}
