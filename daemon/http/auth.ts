/** Authentication and authorization of a request. */
import { VregError } from '../../src/protocol/errors.ts';
import { assertActive, assertScope, type Connection } from '../access/authenticator.ts';
import type { Principal } from '../access/principal.ts';
import type { RequestContext } from './context.ts';
import { sessionSecret } from './request/cookies.ts';
import { socketClient } from './request/proxy.ts';
import { certificateName } from './server/tls.ts';

/**
 * Step: determines the principal. A request without a route also requires one, so that only authenticated clients learn which
 * routes exist.
 * @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS
 */
export function authenticate(ctx: RequestContext): void {
  const { route } = ctx;
  if (route?.access === 'open' && route.needsToken?.(ctx) !== true) return;
  ctx.authenticated = principalOf(ctx);
}

/** The principal of a request to an open route; undefined if the client has no valid credentials. */
export function authenticateIfPossible(ctx: RequestContext): Principal | undefined {
  try {
    return principalOf(ctx);
  } catch (error) {
    if (error instanceof VregError && error.code === 'UNAUTHORIZED') return undefined;
    throw error;
  }
}

/** @throws VregError as {@link authenticate} */
function principalOf(ctx: RequestContext): Principal {
  const { authenticator } = ctx.services;
  const { isOwner, proxyHeader } = socketClient(ctx);
  const credentials = {
    authorization: ctx.headers.authorization,
    address: ctx.remoteAddress,
    isLocal: isOwner,
    proxyHeader,
    certificate: certificateName(ctx.request.socket),
    session: sessionSecret(ctx),
    connection: ctx.request.socket as Connection,
  };
  try {
    return authenticator.authenticate(credentials);
  } catch (error) {
    ctx.rejectedName = authenticator.nameOfRejected(credentials);
    throw error;
  }
}

/**
 * Step: checks the scope that the route requires, and notes the position for the response. A plain heartbeat gets none.
 * @throws VregError FORBIDDEN
 */
export function authorize(ctx: RequestContext): void {
  const { route, authenticated } = ctx;
  if (!authenticated) return;
  if (route && route.access !== 'any' && route.access !== 'open' && !(route.enrols && authenticated.scope === 'enrol'))
    assertScope(authenticated, route.access);
  if (!route?.isHeartbeat) ctx.position = ctx.services.registry.positions.current;
}

/**
 * Step: rejects a request whose principal was revoked or expired while its body was arriving.
 * @throws VregError UNAUTHORIZED
 */
export function assertPrincipalActive({ authenticated }: RequestContext): void {
  if (authenticated) assertActive(authenticated);
}
