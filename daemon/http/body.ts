/** How a request's body becomes a value: which media types, which encoding, how deep. */
import type { FastifyBodyParser, FastifyInstance, FastifyRequest } from 'fastify';
import { VregError } from '../../src/protocol/errors.ts';
import { MAX_DEPTH } from '../../src/protocol/vm.ts';
import type { Scheduler } from '../limits.ts';

/**
 * Bodies are JSON whatever these say: the original registry never looked at the type, and `curl -d` and `fetch` send
 * the last two unless told otherwise.
 */
const JSON_TYPES = [
  'application/json',
  /^application\/[\w.-]+\+json(;|$)/,
  'application/x-www-form-urlencoded',
  'text/plain',
];

/** Bytes of a body that is not counted: as many as there may be connections, these are no danger to memory, nor long work. */
const SMALL = 65_536;
/** Bodies of the largest size that may be on their way, until they are answered. */
const MAX_AT_ONCE = 128;

/** Lets the app read JSON bodies of so many bytes, and nothing else. */
export function readJsonBodies(app: FastifyInstance, maxBody: number, scheduler: Scheduler): void {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let underWay = 0;

  app.addHook('onRequest', (request, reply, done) => {
    const isEmpty = isBodiless(request);
    // A body without a type is read as JSON, too; and where there is no body, its type says nothing.
    if (!request.headers['content-type'] || isEmpty) request.headers['content-type'] = 'application/json';
    const { 'content-encoding': encoding = 'identity' } = request.headers;
    if (!isEmpty && !/^\s*(identity)?\s*$/i.test(encoding)) {
      throw new VregError('UNSUPPORTED_MEDIA_TYPE', `content-encoding ${encoding} is not supported: send plain JSON`, {
        field: 'content-encoding',
      });
    }
    const size = sizeOf(request, maxBody);
    if (size > SMALL && isRead(request)) {
      if (underWay + size > MAX_AT_ONCE * maxBody) throw tooMany(underWay);
      underWay += size;
      reply.raw.once('close', () => {
        underWay -= size;
      });
    }
    if (isRead(request) && isAwaited(request, maxBody)) reply.raw.writeContinue();
    done();
  });

  app.removeAllContentTypeParsers();
  const read: FastifyBodyParser<Buffer> = (_request, body, done) => {
    // A heartbeat or a DELETE may carry the type and no body.
    if (body.length === 0) return done(null, undefined);
    let text: string;
    try {
      text = decoder.decode(body);
    } catch {
      return done(invalidBody('body is not valid UTF-8'));
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      return done(invalidBody(`body is not valid JSON: ${(error as Error).message}`));
    }
    const flaw = flawOf(value);
    if (flaw) return done(invalidBody(`body ${flaw}`));
    done(null, value);
  };
  const parse: FastifyBodyParser<Buffer> = (request, body, done) => {
    if (body.length <= SMALL) return read(request, body, done);
    // With what is then done at once with the value of a large one, which may take a tenth of a second.
    void scheduler.run(() => read(request, body, done));
  };
  for (const type of JSON_TYPES) app.addContentTypeParser(type, { parseAs: 'buffer' }, parse);
  app.addContentTypeParser('*', (request, _payload, done) => {
    const given = request.headers['content-type'];
    done(
      new VregError('UNSUPPORTED_MEDIA_TYPE', `content-type ${given} is not supported: send application/json`, {
        field: 'content-type',
      }),
    );
  });
}

/** By the headers: a request has a body if it tells a length or a transfer coding (RFC 9112, 6). */
function isBodiless({ headers }: FastifyRequest): boolean {
  const length = headers['content-length'];
  return (length === undefined || length === '0') && headers['transfer-encoding'] === undefined;
}

/** True of a body that its client sends when it is asked for it; one that is too large is not (RFC 9110, 10.1.1). */
function isAwaited({ raw, headers }: FastifyRequest, maxBody: number): boolean {
  if (headers.expect === undefined || raw.httpVersion !== '1.1') return false;
  // As Node reads it, who leaves the rest to us.
  return /(?:^|\W)100-continue(?:$|\W)/i.test(headers.expect) && Number(headers['content-length'] ?? 0) <= maxBody;
}

/** The body of a GET says nothing, and is left where it is; its answer may be held for as long as its reader likes. */
function isRead({ method }: FastifyRequest): boolean {
  return method !== 'GET' && method !== 'HEAD';
}

/** By the headers: true of a body that is longer than any that is read, or does not say how long it is. */
export function mayBeEndless({ headers }: FastifyRequest, maxBody: number): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > maxBody;
}

/** Bytes that the body may take in memory, by the headers. */
function sizeOf({ headers }: FastifyRequest, maxBody: number): number {
  const { 'content-length': length, 'transfer-encoding': coding } = headers;
  return coding === undefined ? Math.min(Number(length ?? 0), maxBody) : maxBody;
}

function tooMany(underWay: number): VregError {
  return new VregError('TOO_MANY_REQUESTS', `large bodies of ${underWay} bytes are on their way already`, {
    field: 'body',
    hint: `try again in a moment, or send less than ${SMALL} bytes and say how many in Content-Length`,
    retryAfter: 1,
  });
}

function invalidBody(message: string): VregError {
  return new VregError('INVALID', message, { field: 'body' });
}

/** Keys that would reach an object's prototype if somebody copied the value carelessly. */
const PROTOTYPE_KEYS = ['__proto__', 'constructor'] as const;

const NO_NUMBER = `has a number beyond ${Number.MAX_VALUE}`;

/** What is unacceptable in a value, if anything. Walks without recursion, since a guard must not overflow the stack. */
function flawOf(value: unknown): string | undefined {
  if (isNoNumber(value)) return NO_NUMBER;
  let level = [value].filter(isObject);
  for (let depth = 0; level.length > 0; depth++) {
    if (depth >= MAX_DEPTH) return `is nested more than ${MAX_DEPTH} levels deep`;
    const next: object[] = [];
    for (const item of level) {
      for (const key of PROTOTYPE_KEYS) {
        if (!Object.hasOwn(item, key)) continue;
        if (key === '__proto__') return 'cannot have the key "__proto__"';
        if (isObject(item.constructor) && Object.hasOwn(item.constructor, 'prototype'))
          return 'cannot have the key "constructor" with a "prototype"';
      }
      for (const part of Object.values(item)) {
        if (isObject(part)) next.push(part);
        else if (isNoNumber(part)) return NO_NUMBER;
      }
    }
    level = next;
  }
  return undefined;
}

/** What JSON.parse makes of 1e999 would be answered as `null`: something else than was sent. */
function isNoNumber(value: unknown): boolean {
  return typeof value === 'number' && !Number.isFinite(value);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
