/** The preconditions of a request that changes an entry, and the size of its work. */
import { VregError } from '../../../src/protocol/errors.ts';
import { UNCOUNTED } from '../../limits/budgets.ts';
import type { WriteOptions } from '../../registry/preconditions.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext } from '../context.ts';
import { encoderOf } from '../results.ts';

/**
 * Principal, restriction and expected ETags (`If-Match`, `If-None-Match`) of a change.
 * @throws VregError INVALID, PRECONDITION_FAILED, TOO_MANY_REQUESTS
 */
export function writeOptions(ctx: RequestContext): WriteOptions {
  // Before anything is changed, reject a request whose response could not be encoded or buffered.
  encoderOf(ctx);
  const size = entrySize(ctx);
  if (ctx.method !== 'DELETE' && size > UNCOUNTED.response) ctx.services.responses.assertFits(size);
  const { 'if-match': match, 'if-none-match': noneMatch } = ctx.headers;
  const { name: by, restriction } = ctx.principal;
  const author = { by, restriction, assertActive: () => assertPrincipalActive(ctx) };
  // An entry cannot both exist and not exist (RFC 9110, 13.2.2).
  if (noneMatch === '*' && match !== undefined) {
    throw new VregError('PRECONDITION_FAILED', 'If-Match cannot be combined with If-None-Match: *', {
      field: 'if-none-match',
      hint: 'send only one of them',
    });
  }
  if (noneMatch === '*') return { ...author, expect: 'none' };
  if (noneMatch !== undefined) {
    throw new VregError('INVALID', `unsupported If-None-Match ${noneMatch}: only * is allowed when changing an entry`, {
      field: 'if-none-match',
      hint: 'send * to create an entry only if it does not exist, or send the ETag as If-Match',
    });
  }
  if (match === undefined) return author;
  if (match === '*') return { ...author, expect: 'any' };
  return { ...author, expect: parseEntityTags(match) };
}

/** Runs the change of a large entry through the scheduler. Even a short request may rewrite a large entry. */
export function runScheduled<T>(ctx: RequestContext, work: () => Promise<T>): Promise<T> {
  return entrySize(ctx) > UNCOUNTED.response ? Promise.resolve(ctx.services.scheduler.run(work)) : work();
}

/** Maximum size of the entry in bytes before and after this request. A chunked body of unknown length counts as large. */
function entrySize(ctx: RequestContext): number {
  const { id = '' } = ctx.params;
  const { registry } = ctx.services;
  const { 'content-length': length = 0, 'transfer-encoding': coding } = ctx.headers;
  const added = coding === undefined ? Number(length) : UNCOUNTED.response + 1;
  return Math.max(added, registry.has(id) ? registry.get(id).size : 0);
}

/** An entity tag in a list, and the comma behind it (RFC 9110, 8.8.3). Elements of a list may be empty (5.6.1). */
const ENTITY_TAG = /[ \t]*(?:(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|$)/y;

/**
 * Parses the list of `If-Match`.
 * @returns the strong tags without their quotes. A weak one never matches (RFC 9110, 13.1.1)
 * @throws VregError INVALID
 */
function parseEntityTags(header: string): string[] {
  const strong: string[] = [];
  let count = 0;
  for (let at = 0; at < header.length; at = ENTITY_TAG.lastIndex) {
    ENTITY_TAG.lastIndex = at;
    const found = ENTITY_TAG.exec(header);
    if (!found) break;
    const [, weak, tag] = found;
    if (tag !== undefined) count++;
    if (tag !== undefined && weak === undefined) strong.push(tag);
  }
  if (count > 0 && ENTITY_TAG.lastIndex === header.length) return strong;
  throw new VregError('INVALID', `invalid if-match ${header}: not a list of ETags in double quotes`, {
    field: 'if-match',
    hint: 'send the ETag of the entry unchanged, with its quotes',
  });
}
