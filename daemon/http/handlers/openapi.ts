/** `GET /openapi.json`: the routes that the token may use. */
import type { RequestContext, Result } from '../context.ts';
import { includesTag } from '../response/list-tags.ts';

export function openApi({ services, principal, headers }: RequestContext): Result {
  const { json, etag } = services.openApi.of(principal.scope, principal.restriction !== undefined);
  const known = headers['if-none-match'];
  if (known !== undefined && includesTag(known, `W/"${etag}"`)) return { status: 304, body: '', etag };
  return { status: 200, body: json, etag };
}
