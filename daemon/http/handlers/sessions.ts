/** The log-in of the fleet page: magic links, and the sessions of browsers. */
import { isIP } from 'node:net';
import { joinHostPort } from '../../../src/protocol/address.ts';
import { type MagicLink, PATHS, type SessionStatus } from '../../../src/protocol/api.ts';
import { invalid, VregError } from '../../../src/protocol/errors.ts';
import { parseObject } from '../../../src/protocol/vm.ts';
import type { Principal } from '../../access/principal.ts';
import { SESSION_LIFETIME } from '../../access/sessions.ts';
import { authenticateIfPossible } from '../auth.ts';
import type { RequestContext, Result } from '../context.ts';
import { sessionCookie, sessionSecret } from '../request/cookies.ts';
import { isLoopback } from '../request/loopback.ts';
import { schemeOf } from '../request/proxy.ts';
import { assertSameOrigin } from '../request/same-origin.ts';
import { jsonResult } from '../results.ts';
import { identityOf } from './tokens.ts';

/** `POST /auth/magic-link`, as in the original registry (vers-agent-services). */
export function createMagicLink(ctx: RequestContext): Result {
  const { authenticator, registry } = ctx.services;
  const { base, warning } = findBase(ctx);
  // Without tokens, the page needs no log-in.
  const isOpen = authenticator.isOpen;
  const link = isOpen ? undefined : authenticator.createLink(ctx.principal);
  const url = base + (link ? `${PATHS.logIn}?token=${link.secret}` : PATHS.page);
  const expiresAt = new Date(link?.expiresAt ?? registry.clock.now() + SESSION_LIFETIME).toISOString();
  return jsonResult({ url, expiresAt, ...(warning === undefined ? {} : { warning }) } satisfies MagicLink);
}

/**
 * The start of the page's URL. The Host header is never used, because a client that sends a foreign one could make the registry
 * issue links to another server.
 * @throws VregError INVALID if the registry has no TCP address
 */
function findBase(ctx: RequestContext): { base: string; warning?: string } {
  const { publicUrl, ownAddress } = ctx.services;
  if (publicUrl !== undefined) return { base: publicUrl.replace(/\/+$/, '') };
  const own = ownAddress();
  // A registry that listens on all addresses uses the one to which this client has connected.
  const { localAddress = '', localPort = 0 } = ctx.request.socket;
  const isAny = own !== undefined && ['0.0.0.0', '::'].includes(own.host);
  const host = isAny && localAddress !== '' ? localAddress.replace(/^::ffff:(?=\d+\.)/, '') : own?.host;
  if (own === undefined || host === undefined) {
    throw new VregError('INVALID', 'browsers cannot reach a registry that listens on a unix socket only', {
      field: 'public-url',
      hint: 'start the daemon with --host and --port, or with --public-url behind a proxy',
    });
  }
  const base = `${own.isHttps ? 'https' : 'http'}://${joinHostPort(host, isAny ? localPort : own.port)}`;
  const reason = isLoopback(host)
    ? 'the link works on the machine of the registry only'
    : `the link uses the address ${host}, which others may be unable to reach${own.isHttps && isIP(host) ? ', and which the certificate may not contain' : ''}`;
  return { base, warning: `${reason}; start the daemon with --public-url URL (VERS_PUBLIC_URL)` };
}

/** Bytes of a log-in, of which the secret of a link takes 60. Clients without a token must not use the budget of bodies up. */
export const MAX_LOG_IN_BODY = 4096;

/** `POST /ui/login`: exchanges the secret of a link for a session. Opening the link does not, because scanners open links. */
export function logIn(ctx: RequestContext): Result {
  assertSameOrigin(ctx);
  const { token } = parseObject(ctx.body, 'body');
  if (typeof token !== 'string') throw invalid('token', 'token is required: the value of token in the URL of the link');
  const { sessions } = ctx.services.authenticator;
  const earlier = sessionSecret(ctx);
  const { secret, principal } = sessions.logIn(token);
  // The browser forgets the secret of the session that it had.
  const replaced = earlier === undefined ? undefined : sessions.find(earlier);
  if (replaced) sessions.logOut(replaced.key);
  ctx.authenticated = principal;
  const maxAge = Math.ceil((expiryOf(principal)! - ctx.services.registry.clock.now()) / 1000);
  const cookie = sessionCookie(ctx, secret, maxAge, isSecure(ctx));
  return { ...statusResult(ctx), headers: { 'set-cookie': cookie } };
}

/** True if the browser sends the cookie through an encrypted connection only. */
function isSecure(ctx: RequestContext): boolean {
  return schemeOf(ctx) === 'https' || ctx.services.publicUrl?.startsWith('https:') === true;
}

/** `GET /ui/session`: the identity of the browser. It is not an error that there is none. */
export function readSession(ctx: RequestContext): Result {
  ctx.authenticated = authenticateIfPossible(ctx);
  if (ctx.authenticated === undefined) return jsonResult({ authenticated: false } satisfies SessionStatus);
  return statusResult(ctx);
}

function statusResult({ principal }: RequestContext): Result {
  const { expiresAt: _tokenExpiry, ...identity } = identityOf(principal);
  const expiresAt = expiryOf(principal);
  const expiry = expiresAt === undefined ? {} : { expiresAt: new Date(expiresAt).toISOString() };
  return jsonResult({ authenticated: true, ...identity, ...expiry } satisfies SessionStatus);
}

/**
 * The end of a session, which is that of its token if that is earlier, in milliseconds since the epoch; undefined without a
 * session.
 */
function expiryOf({ session, token }: Principal): number | undefined {
  const ofToken = token?.info.expiresAt;
  return session && Math.min(session.expiresAt, ofToken === undefined ? Infinity : Date.parse(ofToken));
}

/** `DELETE /ui/session`: ends the session, and its open responses. */
export function logOut(ctx: RequestContext): Result {
  assertSameOrigin(ctx);
  const session = authenticateIfPossible(ctx)?.session;
  if (session) ctx.services.authenticator.sessions.logOut(session.key);
  const cookie = sessionCookie(ctx, '', 0, isSecure(ctx));
  return { ...jsonResult({ authenticated: false } satisfies SessionStatus), headers: { 'set-cookie': cookie } };
}
