/** Finds the route for a method and a URL, or the reason why there is none. */
import findMyWay from 'find-my-way';
import { VregError } from '../../src/protocol/errors.ts';
import type { RequestContext, Route } from './context.ts';
import { prefersHtml } from './page.ts';
import { ROUTES } from './routes.ts';

/**
 * Maximum length of a path parameter in characters: Node's limit for a URL and its headers. The router's default of 100 would
 * not match long ids.
 */
const MAX_PARAM = 16_384;

/** The handler that the router requires. It is never called, because only `find` is used. */
const unused = () => {};
const router = findMyWay({ maxParamLength: MAX_PARAM, onBadUrl: unused });
for (const route of ROUTES) router.on(route.method, route.path, unused, route);

/** Step: finds the route. A missing route or a path that cannot be decoded is reported after authentication. */
export function findRoute(ctx: RequestContext): void {
  const { method, url } = ctx.request;
  // Node sends no body in response to a HEAD request.
  const found = router.find((method === 'HEAD' ? 'GET' : method) as Route['method'], url!);
  if (found === null) return;
  if (found.store === null) {
    ctx.isUrlBroken = true;
    return;
  }
  const route = found.store as Route;
  if (route.prefersHtml && !prefersHtml(ctx.headers.accept)) return;
  ctx.route = route;
  ctx.params = found.params;
  ctx.queryParams = found.searchParams as RequestContext['queryParams'];
}

/** Step: responds with 404 or 405 if there is no route. @throws VregError NOT_FOUND, METHOD_NOT_ALLOWED, INVALID */
export function answerUnknownRoute(ctx: RequestContext): void {
  if (ctx.route) return;
  if (ctx.isUrlBroken) throw new VregError('INVALID', 'the URL has invalid percent-encoding', { field: 'url' });
  const { error, allow } = noRoute(ctx.request.method!, ctx.request.url!);
  if (allow !== undefined) ctx.setHeader('allow', allow);
  throw error;
}

/** The error for a method and URL without a route: 405 if the URL supports other methods, otherwise 404. */
export function noRoute(method: string, url: string): { error: VregError; allow?: string } {
  // The router also ignores a fragment.
  const path = url.split(/[?#]/, 1)[0]!;
  const allow = allowedMethods(url).join(', ');
  if (allow === '') {
    return {
      error: new VregError('NOT_FOUND', `no such route: ${method} ${path}`, {
        hint: 'list the routes: GET /openapi.json, or vreg api --help',
      }),
    };
  }
  return {
    error: new VregError('METHOD_NOT_ALLOWED', `${method} is not allowed on ${path}`, { hint: `use one of: ${allow}` }),
    allow,
  };
}

/** The methods that a path supports, in the order of the table; none for an unknown path. */
export function allowedMethods(url: string): string[] {
  const methods = ROUTES.filter((route) => {
    const found = router.find(route.method, url);
    // An empty id or role matches no VM, so no method is allowed.
    return found?.store === route && !route.prefersHtml && !Object.values(found.params).includes('');
  }).map(({ method }) => method as string);
  return methods.includes('GET') ? ['HEAD', ...methods] : methods;
}
