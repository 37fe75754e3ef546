/**
 * Browsers: which pages may use the registry. Without a token, only pages and names of this machine may. Pages of other origins
 * may if they are configured (the Fetch standard's CORS protocol). @fastify/cors and similar packages answer a preflight for
 * every path; this registry answers it for its own routes only, and before authentication.
 */
import { BlockList, isIP } from 'node:net';
import {
  CLIENT_HEADER,
  LEASE_HEADER,
  POSITION_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { RequestContext } from './context.ts';
import { socketClient } from './proxy.ts';
import { respondEmpty } from './response.ts';
import { allowedMethods } from './router.ts';
import { certificateName } from './server/tls.ts';
import { isLocal } from './server/unix-socket.ts';

/** Headers that a page may send: all that a route reads. */
const ALLOWED_HEADERS = `authorization, content-type, if-match, if-none-match, last-event-id, ${REQUEST_ID_HEADER}, ${CLIENT_HEADER}`;
/** Headers that a page may read, besides those that every page may. */
const EXPOSED_HEADERS = [
  VERSION_HEADER,
  LEASE_HEADER,
  REGISTRY_HEADER,
  POSITION_HEADER,
  WARMING_HEADER,
  REQUEST_ID_HEADER,
  'etag',
  'retry-after',
  'allow',
  'date',
].join(', ');
/** Seconds for which a browser may reuse the answer to a preflight: short, since a restart may remove an origin. */
const MAX_AGE = 600;

/**
 * Step: rejects pages of other origins and requests for other names of this machine (DNS rebinding), if no token is configured
 * or if only a TLS certificate identifies the client, since browsers send that automatically.
 * @throws VregError FORBIDDEN
 */
export function rejectCrossOrigin(ctx: RequestContext): void {
  const { services, headers } = ctx;
  const { socket } = ctx.request;
  const isAllowed = allowOrigin(ctx);
  const hasOnlyCertificate = !headers.authorization && certificateName(socket) !== undefined;
  if (!services.authenticator.isOpen && !hasOnlyCertificate) return;
  if (!isAllowed) rejectForeignOrigin(headers.origin);
  // No DNS name leads to a unix socket.
  if (!isLocal(socket)) rejectForeignHost(headers.host, services.names);
  else rejectProxied(ctx);
}

/** A proxy on the unix socket would let anyone in. */
function rejectProxied(ctx: RequestContext): void {
  const { isOwner, proxyHeader: field = 'host' } = socketClient(ctx);
  if (isOwner) return;
  throw new VregError('FORBIDDEN', `header "${field}" may come from a proxy, which needs a token to use the socket`, {
    field,
    hint: 'omit the header, or start the daemon with a token: VERS_AUTH_TOKEN or --token-file',
  });
}

/** Adds the CORS headers that every response carries. @returns whether the request is from a page that was configured */
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

/** Step: answers a browser that asks whether a page may send a request. It sends no token yet. */
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

/** Without a token, anyone who can make a browser on this machine open a page could register VMs. Other clients send no Origin. */
function rejectForeignOrigin(origin: string | undefined): void {
  if (origin === undefined) return;
  const host = URL.canParse(origin) ? new URL(origin).hostname.replace(/^\[|\]$/g, '') : '';
  if (isLoopback(host)) return;
  throw new VregError('FORBIDDEN', `pages of ${origin} may not use a registry without a token`, {
    field: 'origin',
    hint: 'start the daemon with a token (VERS_AUTH_TOKEN or --token-file), and name the origin with --cors-origin',
  });
}

/**
 * A page whose domain was pointed at this machine sends the name of that domain. An address or a name without a dot is nobody's
 * domain, and clients that are no browsers may send no name at all.
 * @param names of this registry that contain a dot
 */
function rejectForeignHost(header: string | undefined, names: Pick<ReadonlySet<string>, 'has'>): void {
  if (header === undefined || ACCEPTED_FORM.test(header)) return;
  const host = header
    .replace(/:\d*$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
  if (isIP(host) !== 0 || !host.includes('.') || host.endsWith('.localhost') || names.has(host)) return;
  throw new VregError('FORBIDDEN', 'a registry without a token answers to its own names only', {
    field: 'host',
    hint: 'use its address, start the daemon with --allow-host NAME, or give it a token',
  });
}

/** IPv4 addresses and names without a dot, with a port: nearly all requests. A quick way past the thorough check. */
const ACCEPTED_FORM = /^(?:[a-z\d-]+|\d+\.\d+\.\d+\.\d+)(?::\d+)?$/;

/** Whether only this machine can reach an address. Names are not resolved: only `localhost` counts. */
export function isLoopback(host: string): boolean {
  const family = isIP(host);
  return family === 0 ? host === 'localhost' : LOOPBACK.check(host, family === 6 ? 'ipv6' : 'ipv4');
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');
