/** Rejects malformed requests before a handler sees them, and converts every error to a response. */
import { toErrorBody, VregError } from '../../src/protocol/errors.ts';
import { maskRequestTarget } from '../../src/protocol/redact.ts';
import type { RequestContext } from './context.ts';
import { commonHeaders, JSON_TYPE, respond } from './response/response.ts';
import { headerLine } from './response/response-head.ts';

/**
 * Maximum number of headers in a request. Clients send a few dozen; thousands of short headers would take ten times their size
 * in memory.
 */
export const MAX_HEADERS = 200;

/** The error for too many headers, which the app detects, and for too many bytes, which Node's parser detects. */
export function headersTooLarge(): VregError {
  return new VregError('HEADERS_TOO_LARGE', `URL and headers are too large (limit 16 KiB and ${MAX_HEADERS} headers)`, {
    field: 'headers',
  });
}

/**
 * Step: rejects a request that has too many headers, does not have exactly one Host header (RFC 9112, 3.2), or has a query that
 * cannot be decoded.
 * @throws VregError HEADERS_TOO_LARGE, INVALID
 */
export function checkHeaders({ request }: RequestContext): void {
  const { rawHeaders } = request;
  if (rawHeaders.length > 2 * MAX_HEADERS) throw headersTooLarge();
  const hosts = countHosts(rawHeaders);
  if (hosts === 0 && request.httpVersion === '1.1')
    throw new VregError('INVALID', 'host is required: HTTP/1.1 requires a Host header', { field: 'host' });
  if (hosts > 1)
    throw new VregError('INVALID', 'the Host header is given more than once; send it once', { field: 'host' });
  const url = request.url!;
  const query = url.indexOf('?');
  if (query >= 0 && url.includes('%', query) && !isDecodable(url.slice(query)))
    throw new VregError('INVALID', 'the query has invalid percent-encoding', { field: 'query' });
}

/** Node's `headers` contain only the first Host. */
function countHosts(rawHeaders: readonly string[]): number {
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

/** Responds to a request whose step, handler or stream has failed. */
export function sendError(ctx: RequestContext, thrown: unknown): void {
  const { request, response, services } = ctx;
  const { method, url } = request;
  const error =
    thrown instanceof VregError
      ? thrown
      : new VregError('INTERNAL', 'the registry failed to handle the request', {
          hint: "see the daemon's log",
          cause: thrown,
        });
  // Overload is not a bug, so the log needs no stack trace.
  if (error.code === 'BUSY') services.log.warn({ method, url: maskRequestTarget(url!) }, error.message);
  else if (error.status >= 500) services.log.error({ err: error, method, url: maskRequestTarget(url!) }, error.message);
  if (ctx.status !== undefined || response.headersSent) {
    // Part of another response has been sent: cut it off, so that the client does not mistake it for a complete one.
    response.destroy();
    return;
  }
  ctx.errorCode = error.code;
  // Omit the position: the principal may have been revoked, or be restricted to other VMs.
  if (error.code === 'UNAUTHORIZED' || error.code === 'FORBIDDEN') ctx.position = undefined;
  let lines = commonHeaders(ctx, JSON_TYPE);
  if (error.retryAfter !== undefined) lines += headerLine('retry-after', error.retryAfter);
  // RFC 6750, 3.
  if (error.code === 'UNAUTHORIZED') lines += headerLine('www-authenticate', 'Bearer');
  else if (error.code === 'FORBIDDEN' && error.field === 'scope')
    lines += headerLine('www-authenticate', 'Bearer error="insufficient_scope"');
  respond(ctx, error.status, lines, JSON.stringify(toErrorBody(error)));
}
