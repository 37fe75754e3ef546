/** Authentication and authorization of a request. */
import { assertActive, assertScope } from '../access/authenticator.ts';
import type { RequestContext } from './context.ts';
import { socketClient } from './proxy.ts';
import { certificateName } from './server/tls.ts';

/**
 * Step: finds the principal. A request without a route needs one, too, so that only authenticated clients learn which routes
 * exist.
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

/** Step: checks the scope that the route requires. @throws VregError FORBIDDEN */
export function authorize({ route, authenticated }: RequestContext): void {
  if (!route || !authenticated) return;
  const { access, enrols } = route;
  if (access === 'any' || access === 'open' || (enrols && authenticated.scope === 'enrol')) return;
  assertScope(authenticated, access);
}

/** Step: the principal may have been revoked, or have expired, while the body arrived. @throws VregError UNAUTHORIZED */
export function assertPrincipalActive({ authenticated }: RequestContext): void {
  if (authenticated) assertActive(authenticated);
}
