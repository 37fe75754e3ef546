/** Reads and parses request bodies, and checks their media type, encoding, size and depth. */
import { VregError } from '../../src/protocol/errors.ts';
import { MAX_DEPTH } from '../../src/protocol/vm.ts';
import { UNCOUNTED } from '../limits.ts';
import type { RequestContext } from './context.ts';

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

/** The body of a GET has no meaning and is not read; its response may be held for as long as its client likes. */
function hasBody({ isRead, headers }: RequestContext): boolean {
  if (isRead) return false;
  // RFC 9112, 6: a request has a body if it announces a length or a transfer coding.
  const length = headers['content-length'];
  return (length !== undefined && length !== '0') || headers['transfer-encoding'] !== undefined;
}

/**
 * Step: if the body may be endless or too large, marks the connection to be closed after the response, so that the body need
 * not be read completely.
 */
export function limitConnection(ctx: RequestContext): void {
  const { headers, services } = ctx;
  if (headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > services.maxBody)
    ctx.mustClose = true;
}

/** Step: rejects a body whose headers declare anything but plain JSON. @throws VregError UNSUPPORTED_MEDIA_TYPE */
export function checkMediaType(ctx: RequestContext): void {
  if (!hasBody(ctx)) return;
  const { 'content-encoding': encoding, 'content-type': type } = ctx.headers;
  if (encoding !== undefined && !/^\s*(identity)?\s*$/i.test(encoding))
    throw unsupported(ctx, 'content-encoding', `content-encoding ${encoding} is not supported: send plain JSON`);
  if (type && !isJson(type))
    throw unsupported(ctx, 'content-type', `content-type ${type} is not supported: send application/json`);
}

function isJson(contentType: string): boolean {
  const [, mediaType = ''] = MEDIA_TYPE.exec(contentType.toLowerCase()) ?? [];
  return JSON_TYPES.has(mediaType) || JSON_SUFFIX.test(mediaType);
}

function unsupported(ctx: RequestContext, field: string, message: string): VregError {
  return refusedBody(ctx, new VregError('UNSUPPORTED_MEDIA_TYPE', message, { field }));
}

/** The client may still be sending the body, so the connection cannot serve another request. */
function refusedBody(ctx: RequestContext, error: VregError): VregError {
  ctx.mustClose = true;
  return error;
}

/** Step: reserves memory for a large body until the response is sent. @throws VregError TOO_LARGE, TOO_MANY_REQUESTS */
export function reserveBody(ctx: RequestContext): void {
  if (!hasBody(ctx)) return;
  const { headers, services, response } = ctx;
  const { maxBody, bodies } = services;
  const length = Number(headers['content-length'] ?? 0);
  if (length > maxBody) throw tooLarge(ctx);
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

/** Step: reads and parses the body, if there is one. */
export function readBody(
  ctx: RequestContext,
  resume: (ctx: RequestContext, error?: unknown) => void,
): 'waiting' | undefined {
  if (!hasBody(ctx)) return undefined;
  const { request, services } = ctx;
  const chunks: Buffer[] = [];
  let size = 0;
  let isOver = false;
  const finish = (error?: VregError) => {
    if (isOver) return;
    isOver = true;
    if (error) return resume(ctx, error);
    const parse = () => {
      try {
        ctx.body = parseJson(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
      } catch (error) {
        return resume(ctx, refusedBody(ctx, error as VregError));
      }
      resume(ctx);
    };
    if (size <= UNCOUNTED.body) parse();
    // Parsing a large body and handling its value can take 100 ms.
    else void services.scheduler.run(parse);
  };
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= services.maxBody) chunks.push(chunk);
    else {
      chunks.length = 0;
      finish(tooLarge(ctx));
    }
  });
  request.once('end', () => finish());
  request.on('error', () => finish(aborted()));
  request.once('close', () => finish(aborted()));
  return 'waiting';
}

function tooLarge(ctx: RequestContext): VregError {
  const message = `body is too large (limit ${ctx.services.maxBody} bytes)`;
  return refusedBody(ctx, new VregError('TOO_LARGE', message, { field: 'body' }));
}

/** The error for a client that left. Only the audit log shows it. */
function aborted(): VregError {
  return invalidBody('the client left before it had sent the complete body');
}

function invalidBody(message: string): VregError {
  return new VregError('INVALID', message, { field: 'body' });
}

/** Rejects invalid UTF-8 and skips a byte order mark. */
const decoder = new TextDecoder('utf-8', { fatal: true });

/** @returns undefined for an empty body: a heartbeat or a DELETE may announce a chunked body and send nothing */
function parseJson(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    throw invalidBody('body is not valid UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalidBody(`body is not valid JSON: ${(error as Error).message}`);
  }
  const flaw = findFlaw(value);
  if (flaw) throw invalidBody(`body ${flaw}`);
  return value;
}

const NOT_A_NUMBER = `has a number beyond ${Number.MAX_VALUE}`;

/**
 * Checks a value without recursion, which could overflow the stack. @returns why it is not acceptable: it is too deep, has a
 * number that JSON cannot express, or has a key that would change a prototype if the value was copied carelessly
 */
function findFlaw(value: unknown): string | undefined {
  if (isInfinite(value)) return NOT_A_NUMBER;
  let level = [value].filter(isObject);
  for (let depth = 0; level.length > 0; depth++) {
    if (depth >= MAX_DEPTH) return `is nested more than ${MAX_DEPTH} levels deep`;
    const next: object[] = [];
    for (const item of level) {
      if (Object.hasOwn(item, '__proto__')) return 'cannot have the key "__proto__"';
      if (
        Object.hasOwn(item, 'constructor') &&
        isObject(item.constructor) &&
        Object.hasOwn(item.constructor, 'prototype')
      )
        return 'cannot have the key "constructor" with a "prototype"';
      for (const part of Object.values(item)) {
        if (isObject(part)) next.push(part);
        else if (isInfinite(part)) return NOT_A_NUMBER;
      }
    }
    level = next;
  }
  return undefined;
}

/** JSON.parse converts 1e999 to Infinity, which JSON.stringify would convert to null. */
function isInfinite(value: unknown): boolean {
  return typeof value === 'number' && !Number.isFinite(value);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
