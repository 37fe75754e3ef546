/** Protects the sessions of browsers from pages of other origins. */
import { VregError } from '../../../src/protocol/errors.ts';
import type { RequestContext } from '../context.ts';

/**
 * Rejects requests of pages from other origins, for requests that a browser authenticates by itself. SameSite=Strict is not
 * enough, because another port of the same host is the same site. Browsers send Sec-Fetch-Site over https and to localhost only,
 * and Origin with all requests that change something.
 * @throws VregError FORBIDDEN
 */
export function assertSameOrigin({ headers, services, isRead }: RequestContext): void {
  const { origin, host, 'sec-fetch-site': site } = headers;
  // A page may be opened from any other one. The form of another page also navigates, with POST.
  const isNavigation = isRead && headers['sec-fetch-mode'] === 'navigate' && headers['sec-fetch-dest'] === 'document';
  if (site !== undefined ? site === 'same-origin' || site === 'none' || isNavigation : origin === undefined) return;
  const sender = origin !== undefined && URL.canParse(origin) ? new URL(origin) : undefined;
  const { publicUrl } = services;
  if (
    site === undefined &&
    sender &&
    (sender.host === host || (publicUrl && sender.origin === new URL(publicUrl).origin))
  )
    return;
  const field = origin === undefined ? 'sec-fetch-site' : 'origin';
  throw new VregError('FORBIDDEN', 'a page from another origin may not use the session of a browser', {
    field,
    hint: 'send a token: "Authorization: Bearer TOKEN"',
  });
}
