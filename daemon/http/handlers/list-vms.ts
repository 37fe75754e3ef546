/** `GET /registry/vms`: all VMs, or those that match filters, sorted, and page by page. */
import { PATHS, SORTS, type Sort } from '../../../src/protocol/api.ts';
import { comparison, parseSelector } from '../../../src/protocol/selector.ts';
import { differentParents } from '../../../src/protocol/vm.ts';
import { permits } from '../../registry/preconditions.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { invalidQuery, type RequestContext, type Result } from '../context.ts';
import { formatCursor, type Place, parseCursor } from '../request/cursor.ts';
import { listResult, listTag, snapshotResult } from '../results.ts';

interface Query {
  role: string | undefined;
  status: string | undefined;
  parentId: string | undefined;
  selector: string | undefined;
  sort: Sort;
  limit: number | undefined;
  /** Cursor of the page before. */
  after: string | undefined;
}

/** Orders with pages: their keys are unique and, except by a new registration, never change. */
const PAGED = { registered: 'number', id: 'string' } as const;

export function listVms(ctx: RequestContext): Result | Promise<Result> {
  const query = readQuery(ctx);
  const { role, status, parentId, selector, sort, limit, after } = query;
  const { registry } = ctx.services;
  const isFiltered = (status ?? parentId ?? selector ?? limit ?? after ?? ctx.readFilter) !== undefined;
  if (!isFiltered && sort === 'registered' && ctx.isPlain) return snapshotResult(ctx, registry.snapshot(role));
  // Heartbeats change the order `seen`.
  const tag = sort === 'seen' ? undefined : listTag(ctx, role);
  if (sort === 'registered' || sort === 'id') return listPage(ctx, query, sort, tag);
  if (after !== undefined) {
    const sorts = Object.keys(PAGED).join(', ');
    throw invalidQuery('after', `after: a list with sort=${sort} has no pages (only with sort=${sorts})`);
  }
  const respond = (entries: readonly VmRecord[]) => listResult(ctx, sorted(entries, sort).slice(0, limit), { tag });
  return select(ctx, registry.list({ role, status, parentId }), selector, respond);
}

function readQuery(ctx: RequestContext): Query {
  const [role, status, selector] = [ctx.param('role'), ctx.param('status'), ctx.param('selector')];
  const sort = ctx.param('sort') ?? 'registered';
  // An empty cursor in a script must not start again with the first page.
  const after = ctx.nonEmpty('after');
  const limit = ctx.number('limit', 1, Number.MAX_SAFE_INTEGER);
  if (!SORTS.includes(sort as Sort))
    throw invalidQuery('sort', `sort: "${sort}" is not known (one of ${SORTS.join(', ')})`);
  return { role, status, parentId: parentFilter(ctx), selector, sort: sort as Sort, limit, after };
}

/** The parent whose children are listed. @throws VregError INVALID */
function parentFilter(ctx: RequestContext): string | undefined {
  const [parentId, parentVmId] = [ctx.nonEmpty('parentId'), ctx.nonEmpty('parentVmId')];
  if (parentId !== undefined && parentVmId !== undefined && parentId !== parentVmId) throw differentParents();
  return parentId ?? parentVmId;
}

/** Responds with the VMs after the cursor, and with the URL of the next page if `limit` omits some. */
function listPage(
  ctx: RequestContext,
  query: Query,
  sort: keyof typeof PAGED,
  tag: string | undefined,
): Result | Promise<Result> {
  const { role, status, parentId, selector, limit = Number.POSITIVE_INFINITY, after } = query;
  const list = [sort, role, status, parentId, selector];
  const place = after === undefined ? undefined : parseCursor(after, PAGED[sort], list);
  const respond = (entries: readonly VmRecord[]) => {
    const inOrder = sort === 'id' ? firstById(entries, limit + 1) : entries;
    const page = inOrder.slice(0, limit);
    if (page.length === inOrder.length) return listResult(ctx, page, { tag });
    const last = page.at(-1)!;
    const cursor = formatCursor(sort === 'id' ? last.id : last.version.created, list);
    return listResult(ctx, page, { tag, headers: { link: `<${nextUrl(ctx, cursor)}>; rel="next"` } });
  };
  if (sort === 'id') return select(ctx, listAfterId(ctx, query, place), selector, respond);
  // A selector may reject any number of VMs, so it needs more of them than the page has.
  const count = selector === undefined ? limit + 1 : Number.POSITIVE_INFINITY;
  return select(ctx, listRegisteredBefore(ctx, query, place, count), selector, respond);
}

/** VMs with a larger id, in any order. */
function listAfterId(ctx: RequestContext, query: Query, id: Place | undefined): readonly VmRecord[] {
  const entries = ctx.services.registry.list(query);
  return id === undefined ? entries : entries.filter((entry) => entry.id > id);
}

/** The first VMs that were registered before a revision and that the reader may see, newest first. */
function listRegisteredBefore(
  { services: { registry }, readFilter }: RequestContext,
  { role, status, parentId }: Query,
  revision: Place = Number.POSITIVE_INFINITY,
  count: number,
): readonly VmRecord[] {
  const found: VmRecord[] = [];
  const candidates =
    parentId === undefined
      ? registry.registeredBefore(revision as number, role)
      : registry.list({ role, parentId }).filter(({ version }) => version.created < (revision as number));
  for (const entry of candidates) {
    if (status !== undefined && entry.status !== status) continue;
    if (status === 'running' && registry.isStale(entry)) continue;
    if (readFilter && !permits(readFilter, entry)) continue;
    if (found.push(entry) >= count) break;
  }
  return found;
}

/** Responds with the VMs that the reader may see and that match the selector. */
function select(
  { services, readFilter, response }: RequestContext,
  entries: readonly VmRecord[],
  selector: string | undefined,
  respond: (entries: readonly VmRecord[]) => Result,
): Result | Promise<Result> {
  const visible = readFilter ? entries.filter((entry) => permits(readFilter, entry)) : entries;
  if (selector === undefined) return respond(visible);
  const matches = parseSelector(selector);
  return services.scheduler
    .filter(
      visible,
      ({ vm }) => matches(vm),
      () => !response.destroyed,
    )
    .then(respond);
}

/** The path and query of the next page: those of this request, with another cursor. */
function nextUrl({ queryParams }: RequestContext, cursor: string): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(queryParams)) {
    if (name === 'after') continue;
    for (const each of typeof value === 'string' ? [value] : (value ?? [])) query.append(name, each);
  }
  query.append('after', cursor);
  return `${PATHS.vms}?${query}`;
}

/** The VMs with the smallest ids, sorted. Sorting an entire large fleet for each page would block the event loop. */
function firstById(entries: readonly VmRecord[], count: number): readonly VmRecord[] {
  if (entries.length <= count) return sorted(entries, 'id');
  let found: VmRecord[] = [];
  let largest: string | undefined;
  for (const entry of entries) {
    if (largest !== undefined && entry.id > largest) continue;
    found.push(entry);
    if (found.length < 2 * count) continue;
    found = sorted(found, 'id').slice(0, count);
    largest = found.at(-1)!.id;
  }
  return sorted(found, 'id').slice(0, count);
}

function sorted(entries: readonly VmRecord[], sort: Sort): VmRecord[] {
  const compare = comparison(sort);
  if (!compare) return [...entries];
  const keyed = entries.map((entry) => {
    const { id, name, role } = entry;
    return { entry, key: { id, name, role, lastSeen: sort === 'seen' ? entry.lastSeen : '' } };
  });
  return keyed.sort((a, b) => compare(a.key, b.key)).map(({ entry }) => entry);
}
