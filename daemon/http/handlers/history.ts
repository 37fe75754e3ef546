/**
 * `GET /registry/vms/:id/history`: the last changes to a VM. A long history is read from the journal and sent page by page, as
 * fast as the client reads it.
 */

import { limitReached } from '../../../src/protocol/errors.ts';
import { type HistoryItem, JOURNAL_LENGTH } from '../../../src/protocol/events.ts';
import { COUNTS } from '../../limits.ts';
import type { JournalItem } from '../../store/store.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext, Result } from '../context.ts';
import { pullStream, reserveFor } from '../response/streaming.ts';

/** Number of changes in a response without `limit`. */
const DEFAULT_LIMIT = 100;
/** Number of changes per page. The journal limits the size of a change, so a page is at most 2 MB. */
const PAGE_SIZE = 100;

/** @throws VregError NOT_FOUND, TOO_MANY_REQUESTS; only before any part of the response is sent */
export async function history(ctx: RequestContext): Promise<Result> {
  const { id, response } = ctx;
  const { scheduler, responses, registry } = ctx.services;
  ctx.assertReadable(id);
  // The VM may leave the reader's role before the journal is read.
  const end = ctx.readFilter?.role === undefined ? undefined : registry.get(id).version.revision + 1;
  const limit = ctx.number('limit', 1, JOURNAL_LENGTH) ?? DEFAULT_LIMIT;
  if (scheduler.serialized >= COUNTS.historyPages) {
    throw limitReached('history reads', COUNTS.historyPages, { hint: 'retry in a second', retryAfter: 1 });
  }
  const read = (rest: number, before?: number) => scheduler.serialize(() => readPage(ctx, rest, before));
  const first = await read(limit, end);
  assertPrincipalActive(ctx);
  const start = `{"id":${JSON.stringify(id)},"history":[${first.text}`;
  if (first.end === undefined) return { status: 200, body: `${start}],"count":${first.count}}` };
  const reservation = reserveFor(response, responses, start.length);
  ctx.destroyWhenRevoked();
  const chunks = pageChunks(read, limit, [start], { count: first.count, end: first.end });
  return { status: 200, body: pullStream(async () => (await chunks.next()).value, reservation) };
}

interface Page {
  /** JSON of the changes, separated by commas. */
  text: string;
  count: number;
  /** Revision of the last change; undefined on the last page. */
  end: number | undefined;
}

/** @param rest maximum number of changes that are still to be sent @param before read only changes with a lower revision */
async function readPage(ctx: RequestContext, rest: number, before: number | undefined): Promise<Page> {
  // The client may have disconnected while this page was waiting for its turn.
  if (ctx.response.destroyed) return { text: '', count: 0, end: undefined };
  const items = await ctx.services.registry.history(ctx.id, Math.min(rest, PAGE_SIZE), before);
  const visible = visibleItems(items, ctx.readFilter?.role !== undefined);
  const isLast = items.length < PAGE_SIZE || rest === PAGE_SIZE || visible.isCut;
  return {
    text: JSON.stringify(visible.items.map(toHistoryItem)).slice(1, -1),
    count: visible.items.length,
    end: isLast ? undefined : items.at(-1)!.revision,
  };
}

/**
 * A reader that is restricted to a role sees neither the changes before the VM got that role nor an earlier VM with the same
 * id. It sees the registration, but not a change that moved the VM into the role, because that change contains the old role.
 * @param items newest first
 */
function visibleItems(items: readonly JournalItem[], isRestrictedToRole: boolean) {
  const came = isRestrictedToRole
    ? items.findIndex(({ type, changes }) => type === 'registered' || changes.role !== undefined)
    : -1;
  if (came < 0) return { items, isCut: false };
  return { items: items.slice(0, items[came]!.type === 'registered' ? came + 1 : came), isCut: true };
}

/** Omits a revision of another store, which means nothing here. */
function toHistoryItem({ revision, ...item }: JournalItem): HistoryItem {
  return revision < 0 ? item : { revision, ...item };
}

/** @param start an array from which the first page is removed, so that it is not retained while the other pages are sent */
async function* pageChunks(
  read: (rest: number, before?: number) => Promise<Page>,
  limit: number,
  start: string[],
  first: Omit<Page, 'text'>,
): AsyncGenerator<string, undefined> {
  let { count, end } = first;
  yield start.pop()!;
  while (end !== undefined) {
    const page = await read(limit - count, end);
    count += page.count;
    end = page.end;
    if (page.count > 0) yield `,${page.text}`;
  }
  yield `],"count":${count}}`;
}
