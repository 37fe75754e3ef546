/**
 * Controls which web pages may use the registry. Without a token, only pages from this machine may, and only under names of
 * this machine. Configured origins may use it through CORS (Fetch standard). @fastify/cors and similar packages answer
 * preflights for every path; this registry answers them only for its own routes, and before authentication.
 */
import { isIP } from 'node:net';
import {
  CLIENT_HEADER,
  LEASE_HEADER,
  POSITION_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { RequestContext } from '../context.ts';
import { respondEmpty } from '../response/response.ts';
import { allowedMethods } from '../router.ts';
import { certificateName } from '../server/tls.ts';
import { sessionSecret } from './cookies.ts';
import { isLoopback } from './loopback.ts';
import { socketClient } from './proxy.ts';
import { assertSameOrigin } from './same-origin.ts';

/** Headers that a page may send: all headers that routes read. */
const ALLOWED_HEADERS = `authorization, content-type, if-match, if-none-match, last-event-id, ${REQUEST_ID_HEADER}, ${CLIENT_HEADER}`;
/** Headers that a page may read in addition to those that the Fetch standard always allows. */
const EXPOSED_HEADERS = [
  VERSION_HEADER,
  LEASE_HEADER,
  REGISTRY_HEADER,
  POSITION_HEADER,
  WARMING_HEADER,
  REQUEST_ID_HEADER,
  'etag',
  'link',
  'retry-after',
  'allow',
  'date',
].join(', ');
/** Seconds for which a browser may cache the response to a preflight. Short, because a restart may remove an origin. */
const MAX_AGE = 600;

/**
 * Step: if no token is configured, or if only a TLS certificate identifies the client, which browsers send automatically,
 * rejects pages from other origins and requests for foreign host names (DNS rebinding). Requests with the cookie of a session
 * must come from the registry's own page.
 * @throws VregError FORBIDDEN
 */
export function rejectCrossOrigin(ctx: RequestContext): void {
  const { services, headers } = ctx;
  const { socket } = ctx.request;
  const isAllowed = allowOrigin(ctx);
  const hasOnlyCertificate = !headers.authorization && certificateName(socket) !== undefined;
  if (!headers.authorization && sessionSecret(ctx) !== undefined) assertSameOrigin(ctx);
  if (!services.authenticator.isOpen && !hasOnlyCertificate) return;
  if (!isAllowed) rejectForeignOrigin(headers.origin);
  // No DNS name resolves to a unix socket.
  if (!ctx.isOnUnixSocket) rejectForeignHost(headers.host, services.names);
  else rejectProxied(ctx);
}

/** Rejects requests from a proxy on the unix socket, which would give every client access. */
function rejectProxied(ctx: RequestContext): void {
  const { isOwner, proxyHeader: field = 'host' } = socketClient(ctx);
  if (isOwner) return;
  throw new VregError(
    'FORBIDDEN',
    `the header "${field}" may come from a proxy, which may use the socket only with a token`,
    {
      field,
      hint: 'omit the header, or start the daemon with a token: VERS_AUTH_TOKEN or --token-file',
    },
  );
}

/** Adds the CORS headers to every response. @returns true if the request is from a page of a configured origin */
function allowOrigin(ctx: RequestContext): boolean {
  const { allowedOrigins } = ctx.services;
  if (allowedOrigins === undefined) return false;
  ctx.setHeader('vary', 'Origin');
  const { origin } = ctx.headers;
  if (origin === undefined || !allowedOrigins.has(origin)) return false;
  ctx.setHeader('access-control-allow-origin', origin);
  ctx.setHeader('access-control-expose-headers', EXPOSED_HEADERS);
  return true;
}

/** Step: answers a preflight request, with which a browser asks whether a page may send a request. It contains no token. */
export function answerPreflight(ctx: RequestContext): 'responded' | undefined {
  const { method, headers, request, services } = ctx;
  if (method !== 'OPTIONS' || !headers['access-control-request-method']) return undefined;
  if (!services.allowedOrigins?.has(headers.origin ?? '')) return undefined;
  const methods = allowedMethods(request.url!);
  if (methods.length === 0) return undefined;
  ctx.setHeader('access-control-allow-methods', methods.join(', '));
  ctx.setHeader('access-control-allow-headers', ALLOWED_HEADERS);
  ctx.setHeader('access-control-max-age', String(MAX_AGE));
  respondEmpty(ctx, 204);
  return 'responded';
}

/**
 * Rejects pages from other origins. Otherwise, any web page that is opened in a browser on this machine could register VMs.
 * Other clients send no Origin.
 */
function rejectForeignOrigin(origin: string | undefined): void {
  if (origin === undefined) return;
  const host = URL.canParse(origin) ? new URL(origin).hostname.replace(/^\[|\]$/g, '') : '';
  if (isLoopback(host)) return;
  throw new VregError('FORBIDDEN', `pages from ${origin} may not use a registry without a token`, {
    field: 'origin',
    hint: 'start the daemon with a token (VERS_AUTH_TOKEN or --token-file) and with --cors-origin ORIGIN',
  });
}

/**
 * Rejects foreign host names: a page whose domain was rebound to this machine sends the name of that domain. Nobody can
 * register an address or a name without a dot as a domain, and clients other than browsers may send no name.
 * @param names the names of this registry that contain a dot
 */
function rejectForeignHost(header: string | undefined, names: Pick<ReadonlySet<string>, 'has'>): void {
  if (header === undefined || ACCEPTED_FORM.test(header)) return;
  const host = header
    .replace(/:\d*$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
  if (isIP(host) !== 0 || !host.includes('.') || host.endsWith('.localhost') || names.has(host)) return;
  throw new VregError(
    'FORBIDDEN',
    `the host name "${host}" is not allowed: without a token, the registry accepts only its own names in the Host header`,
    {
      field: 'host',
      hint: 'use an IP address, or start the daemon with --allow-host NAME or with a token',
    },
  );
}

/** IPv4 addresses and names without a dot, optionally with a port. Nearly all requests match and skip the thorough check. */
const ACCEPTED_FORM = /^(?:[a-z\d-]+|\d+\.\d+\.\d+\.\d+)(?::\d+)?$/;
