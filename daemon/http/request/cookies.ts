/** The cookie with the secret of a browser's session. */
import type { RequestContext } from '../context.ts';

/** Number of characters of the registry's id in the name of its cookie. */
const ID_LENGTH = 8;

/**
 * The name of the cookie of a registry. Cookies are shared by all ports of a host, so registries on the same host need different names. The name is also why the
 * cookie of another registry is ignored.
 */
export function cookieName({ id }: { id: string }): string {
  return `vreg-${id.slice(0, ID_LENGTH)}`;
}

/** The secret in the cookie; undefined if there is none. */
export function sessionSecret(ctx: RequestContext): string | undefined {
  const { cookie } = ctx.headers;
  if (cookie === undefined) return undefined;
  const start = `${cookieName(ctx.services.registry)}=`;
  const pair = cookie.split(/; */).find((each) => each.startsWith(start));
  return pair?.slice(start.length) || undefined;
}

/**
 * The value of `Set-Cookie`, with which a browser stores the secret of a session, or deletes it.
 * @param maxAge seconds; 0 deletes the cookie
 */
export function sessionCookie(ctx: RequestContext, secret: string, maxAge: number, isSecure: boolean): string {
  const name = cookieName(ctx.services.registry);
  return `${name}=${secret}; Path=/; Max-Age=${maxAge}; HttpOnly; SameSite=Strict${isSecure ? '; Secure' : ''}`;
}
