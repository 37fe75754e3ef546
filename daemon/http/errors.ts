/** What is refused before any route is asked. */
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyRequest } from 'fastify';
import { VregError } from '../../src/protocol/errors.ts';
import { methodsOf } from './routes.ts';

export interface Refusal {
  error: VregError;
  /** The `Allow` header of a 405. */
  allow?: string;
  /** What was asked, and its headers, where that could be read. */
  asked?: { method: string; url: string };
  headers?: IncomingHttpHeaders;
}

/** Why no route answers to a method and a URL: 405 where another method would do, else 404. */
export function refuseRoute(method: string, url: string): Refusal {
  // As the router reads it: no client should send a fragment, and one that does has asked for what is before it.
  const path = url.split(/[?#]/, 1)[0]!;
  const allow = methodsOf(path).join(', ');
  if (!allow) {
    return {
      error: new VregError('NOT_FOUND', `no such route: ${method} ${path}`, {
        hint: 'the routes are /health and those under /registry',
      }),
    };
  }
  return {
    error: new VregError('METHOD_NOT_ALLOWED', `${method} is not possible on ${path}`, {
      hint: `use one of: ${allow}`,
    }),
    allow,
  };
}

/** Headers of a request: tens are usual, and thousands of short ones would cost ten times their bytes. */
export const MAX_HEADERS = 200;

/** Some versions of Node find out that there are too many, as all do that they are too long. */
export function headersTooLarge(): VregError {
  return new VregError(
    'HEADERS_TOO_LARGE',
    `URL and headers are too large: at most 16 KiB together, and ${MAX_HEADERS} headers`,
    { field: 'headers' },
  );
}

/** @returns what is wrong with a request whatever its route: too many headers, no Host, or two (RFC 9112, 3.2), a query that cannot be decoded */
export function flawOf({ raw, headers, url }: FastifyRequest): VregError | undefined {
  if (raw.rawHeaders.length > 2 * MAX_HEADERS) return headersTooLarge();
  if (headers.host === undefined && raw.httpVersion === '1.1')
    return new VregError('INVALID', 'host is required: HTTP/1.1 asks for a Host header', { field: 'host' });
  if (hostsOf(raw.rawHeaders) > 1)
    return new VregError('INVALID', 'host is given more than once: give it once', { field: 'host' });
  const query = url.indexOf('?');
  if (query >= 0 && url.includes('%', query) && !isDecodable(url.slice(query)))
    return new VregError('INVALID', 'the query has a broken percent-encoding', { field: 'query' });
  return undefined;
}

/** How often a Host is given: Node shows the first only. */
function hostsOf(rawHeaders: readonly string[]): number {
  let count = 0;
  for (let i = 0; i < rawHeaders.length; i += 2)
    if (rawHeaders[i]!.length === 4 && rawHeaders[i]!.toLowerCase() === 'host') count++;
  return count;
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}
