/** Refusals: requests that no handler should see, and the one place that turns an error into a response. */
import { toErrorBody, VregError } from '../../src/protocol/errors.ts';
import { maskRequestTarget } from '../../src/protocol/redact.ts';
import type { RequestContext } from './context.ts';
import { commonHeaders, JSON_TYPE, respond } from './response.ts';

/** Headers of a request. A client sends some tens; thousands of short ones would cost ten times their bytes in memory. */
export const MAX_HEADERS = 200;

/** For too many headers, which the app notices, and for too many bytes, which Node's parser notices. */
export function headersTooLarge(): VregError {
  return new VregError(
    'HEADERS_TOO_LARGE',
    `URL and headers are too large: at most 16 KiB together, and ${MAX_HEADERS} headers`,
    { field: 'headers' },
  );
}

/**
 * Step: refuses a request with too many headers, no Host or two (RFC 9112, 3.2), or a query that cannot be decoded.
 * @throws VregError HEADERS_TOO_LARGE, INVALID
 */
export function checkHeaders({ request }: RequestContext): void {
  const { rawHeaders } = request;
  if (rawHeaders.length > 2 * MAX_HEADERS) throw headersTooLarge();
  const hosts = countHosts(rawHeaders);
  if (hosts === 0 && request.httpVersion === '1.1')
    throw new VregError('INVALID', 'host is required: HTTP/1.1 asks for a Host header', { field: 'host' });
  if (hosts > 1) throw new VregError('INVALID', 'host is given more than once: give it once', { field: 'host' });
  const url = request.url!;
  const query = url.indexOf('?');
  if (query >= 0 && url.includes('%', query) && !isDecodable(url.slice(query)))
    throw new VregError('INVALID', 'the query has a broken percent-encoding', { field: 'query' });
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
      : new VregError('INTERNAL', 'the registry failed to answer', { hint: "see the daemon's log", cause: thrown });
  // An overloaded daemon is no fault of the program, so its log needs no stack trace.
  if (error.code === 'BUSY') services.log.warn({ method, url: maskRequestTarget(url!) }, error.message);
  else if (error.status >= 500) services.log.error({ err: error, method, url: maskRequestTarget(url!) }, error.message);
  if (ctx.status !== undefined || response.headersSent) {
    // A part of another response has been sent: cut it off, so that the client does not take it for the whole.
    response.destroy();
    return;
  }
  ctx.errorCode = error.code;
  const headers = commonHeaders(ctx, JSON_TYPE);
  if (error.retryAfter !== undefined) headers.push('retry-after', error.retryAfter);
  // RFC 6750, 3.
  if (error.code === 'UNAUTHORIZED') headers.push('www-authenticate', 'Bearer');
  else if (error.code === 'FORBIDDEN' && error.field === 'scope')
    headers.push('www-authenticate', 'Bearer error="insufficient_scope"');
  respond(ctx, error.status, headers, JSON.stringify(toErrorBody(error)));
}
