/** The past of one VM as JSON. A long one is read and sent page by page, as its reader takes it. */
import { VregError } from '../../../src/protocol/errors.ts';
import type { HistoryItem } from '../../../src/protocol/events.ts';
import type { RequestContext, Result } from '../context.ts';
import { asTaken } from '../response-budget.ts';

/** Pages that may be asked for at once: one that is as long as it can be takes a tenth of a second. */
const MAX_WAITING = 50;
/** Changes of a page: what is answered when nothing is said; two megabytes at most, as the journal bounds each. */
const PAGE = 100;

/** @throws VregError NOT_FOUND, TOO_MANY_REQUESTS, before anything is sent */
export async function historyOf(ctx: RequestContext, limit: number): Promise<Result> {
  const { id, readFilter, response } = ctx;
  const { registry, scheduler, responses } = ctx.services;
  if (scheduler.inLineNow >= MAX_WAITING) {
    throw new VregError('TOO_MANY_REQUESTS', `${MAX_WAITING} histories are asked for already`, {
      hint: 'try again in a second',
      retryAfter: 1,
    });
  }
  const read: ReadPage = (rest, before) =>
    scheduler.inLine(async () => {
      // For nobody, where who asked has gone meanwhile.
      if (response.destroyed) return pageOf([], true);
      const items = await registry.history(id, Math.min(rest, PAGE), before);
      const came = readFilter?.role === undefined ? -1 : items.findIndex(isComing);
      const seen = came < 0 ? items : items.slice(0, items[came]!.type === 'registered' ? came + 1 : came);
      return pageOf(seen, items.length < PAGE || rest === PAGE || came >= 0);
    });
  const first = await read(limit);
  const start = `{"id":${JSON.stringify(id)},"history":[${first.text}`;
  if (first.end === undefined) return { status: 200, body: `${start}],"count":${first.count}}` };
  const account = responses.open(response);
  account.keep(start.length);
  ctx.destroyWhenRevoked();
  const made = piecesOf(read, limit, [start], { count: first.count, end: first.end });
  return { status: 200, body: asTaken(async () => (await made.next()).value, account) };
}

/** @param rest changes of this page and all that follow it @param before revision */
type ReadPage = (rest: number, before?: number) => Promise<Page>;

interface Page {
  text: string;
  count: number;
  /** Revision of its last change, where there may be more. */
  end: number | undefined;
}

function pageOf(items: readonly HistoryItem[], isLast: boolean): Page {
  return {
    text: JSON.stringify(items).slice(1, -1),
    count: items.length,
    end: isLast ? undefined : items.at(-1)!.revision,
  };
}

/**
 * True of the change by which a VM came into the role that it has: who may look at that role only is not told what it was
 * before, nor what else had its id.
 */
function isComing({ type, changes }: HistoryItem): boolean {
  return type === 'registered' || changes.role !== undefined;
}

/** @param start is taken out, so that it is not kept for as long as the rest takes */
async function* piecesOf(
  read: ReadPage,
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
