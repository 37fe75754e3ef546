/** Authentication and authorization of a request. */
import { assertActive, assertScope } from '../access/authenticator.ts';
import type { RequestContext } from './context.ts';
import { socketClient } from './proxy.ts';
import { certificateName } from './server/tls.ts';

/**
 * Step: determines the principal. A request without a route also requires one, so that only authenticated clients learn which
 * routes exist.
 * @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS
 */
export function authenticate(ctx: RequestContext): void {
  if (ctx.route?.access === 'open') return;
  const { authenticator } = ctx.services;
  const { isOwner, proxyHeader } = socketClient(ctx);
  const credentials = {
    authorization: ctx.headers.authorization,
    address: ctx.remoteAddress,
    isLocal: isOwner,
    proxyHeader,
    certificate: certificateName(ctx.request.socket),
  };
  try {
    ctx.authenticated = authenticator.authenticate(credentials);
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
