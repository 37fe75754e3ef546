/**
 * Handles query parameters that a route does not know, because the response to a misspelled filter must not look like the
 * entire fleet.
 */
import { VregError } from '../../../src/protocol/errors.ts';
import { maskTokens, printable } from '../../../src/protocol/redact.ts';
import type { RequestContext, Route } from '../context.ts';
import { isVregClient } from '../response/response.ts';

/** Characters of a parameter's name in an error or in the log. */
const MAX_NAME = 60;
/** Names in one line of the log. */
const MAX_LOGGED = 10;

/**
 * Step: refuses the unknown query parameters of a vreg client. From other clients they are ignored, as in the original
 * registry, but counted and logged.
 * @throws VregError INVALID with the names that the route knows
 */
export function checkQuery(ctx: RequestContext): void {
  const { queryParams, services } = ctx;
  const route = ctx.route!;
  let unknown: string[] | undefined;
  for (const name in queryParams) {
    if (route.query.includes(name)) continue;
    unknown ??= [];
    unknown.push(name);
  }
  if (unknown === undefined) return;
  if (isVregClient(ctx)) throw unknownParameter(unknown[0]!, route);
  services.counters.unknownParameters += unknown.length;
  if (!services.log.isLevelEnabled('debug')) return;
  const parameters = unknown.slice(0, MAX_LOGGED).map(shorten);
  const { requestId, remoteAddress: from } = ctx;
  services.log.debug({ requestId, from, route: nameOf(route), parameters }, 'ignored unknown query parameters');
}

function unknownParameter(name: string, route: Route): VregError {
  const known = route.query.length > 0 ? `one of ${route.query.join(', ')}` : `${nameOf(route)} has none`;
  const field = shorten(name);
  return new VregError('INVALID', `unknown query parameter "${field}" (${known})`, { field });
}

function nameOf({ method, path }: Route): string {
  return `${method} ${path}`;
}

function shorten(name: string): string {
  return printable(maskTokens(name)).slice(0, MAX_NAME);
}
