/** Results with entries: their encoding, their ETag, and the warming header if they may contain dead VMs. */
import { INCLUDE_LIVENESS } from '../../src/protocol/api.ts';
import { type Warming, warmingOf } from '../registry/explain.ts';
import { permits } from '../registry/preconditions.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { Snapshot } from '../registry/vm-snapshot.ts';
import { invalidQuery, type RequestContext, type Result } from './context.ts';
import { includesTag } from './response/list-tags.ts';
import {
  CHUNK_SIZE,
  encodeList,
  encodeSnapshot,
  listLength,
  reserveFor,
  SnapshotBody,
  snapshotLength,
} from './response/streaming.ts';

/** Options of {@link listResult}. */
interface ListOptions {
  /** The entries that the warming header covers, if the list omits some of them. */
  offered?: readonly VmRecord[];
  /** Names of the list in the response; by default `vms`. */
  names?: readonly string[];
  /** From {@link listTag}. */
  tag?: string | undefined;
  headers?: Result['headers'];
}

/** A response with a JSON body. */
export function jsonResult(value: unknown, status = 200): Result {
  return { status, body: JSON.stringify(value) };
}

/** The entry that a change has written. */
export function entryResult(ctx: RequestContext, entry: VmRecord, status = 200): Result {
  const { position } = ctx;
  if (position !== undefined && entry.version.revision > revisionIn(position)) ctx.position = entry.position;
  return { status, body: encoderOf(ctx)(entry), etag: entry.position };
}

/** A result with one entry, and the warming header if its liveness is uncertain. */
export function readResult(ctx: RequestContext, entry: VmRecord): Result {
  const body = encoderOf(ctx)(entry);
  const length = ctx.isPlain ? entry.size : undefined;
  return { status: 200, body, length, etag: entry.position, warming: warmingFor(ctx, [entry]) };
}

/** A result with a list of entries. */
export function listResult(
  ctx: RequestContext,
  entries: readonly VmRecord[],
  { offered = entries, names, tag, headers }: ListOptions = {},
): Result {
  const { readFilter } = ctx;
  const seen = (all: readonly VmRecord[]) => (readFilter ? all.filter((entry) => permits(readFilter, entry)) : all);
  const encode = encoderOf(ctx);
  const warming = warmingFor(ctx, seen(offered));
  return unlessKnown(ctx, tag, { warming, headers }, () => {
    const { scheduler, responses } = ctx.services;
    const reserve = (bytes: number) => reserveFor(ctx.response, responses, bytes);
    const listed = seen(entries);
    const body = encodeList(listed, encode, scheduler, reserve, names);
    if (typeof body !== 'string') ctx.destroyWhenRevoked();
    return { body, length: ctx.isPlain ? listLength(listed, names) : undefined };
  });
}

/** A result with a list that all its readers share. */
export function snapshotResult(ctx: RequestContext, snapshot: Snapshot): Result {
  const { registry, scheduler, responses, listTags } = ctx.services;
  const tag = listTags.ofSnapshot(snapshot, () => tagOf(ctx, snapshot.stamp));
  return unlessKnown(ctx, tag, { warming: warmingFor(ctx, snapshot) }, () => {
    const now = () => registry.clock.listening();
    const length = snapshotLength(snapshot);
    if (length <= CHUNK_SIZE) return { body: encodeSnapshot(snapshot, now()), length };
    const reserve = (bytes: number) => reserveFor(ctx.response, responses, bytes);
    const body = new SnapshotBody(snapshot, now, scheduler, reserve);
    ctx.destroyWhenRevoked();
    return { body, length };
  });
}

/**
 * The weak ETag of the list that the request asks for. Compute it before the list: a newer list with this tag is only sent
 * again, but an older list with a newer tag would hide the change from later requests.
 * @param role if the list contains only VMs with a role
 */
export function listTag(ctx: RequestContext, role: string | undefined): string {
  return tagOf(ctx, ctx.services.registry.stamp(role));
}

/** @param stamp of the listed VMs */
function tagOf(ctx: RequestContext, stamp: string): string {
  // A long poll returns the same list as a request that does not wait.
  const { wait: _wait, min: _min, minPosition: _position, ...query } = ctx.queryParams;
  return ctx.services.listTags.of(stamp, [ctx.route!.path, ctx.params, query, ctx.readFilter]);
}

/** A result with a tag, or 304 if the client has the list already. @param encode creates the body */
function unlessKnown(
  ctx: RequestContext,
  tag: string | undefined,
  { warming, headers }: Pick<Result, 'warming' | 'headers'>,
  encode: () => Pick<Result, 'body' | 'length'>,
): Result {
  if (tag === undefined) return { status: 200, ...encode(), headers, warming };
  const known = ctx.headers['if-none-match'];
  const all = { ...headers, etag: tag };
  if (known !== undefined && includesTag(known, tag)) return { status: 304, body: '', headers: all, warming };
  return { status: 200, ...encode(), headers: all, warming };
}

function warmingFor(ctx: RequestContext, entries: Iterable<VmRecord> | Snapshot): Warming | undefined {
  const { registry } = ctx.services;
  return warmingOf(entries, registry.clock, registry.staleAfter);
}

/** Returns the encoder for entries: plain, or with the fields that `include` requests. */
export function encoderOf(ctx: RequestContext): (entry: VmRecord) => string {
  const { registry } = ctx.services;
  const include = ctx.param('include');
  if (include === undefined) return encodePlain;
  if (include !== INCLUDE_LIVENESS.include) {
    throw invalidQuery('include', `include: "${include}" is not known (one of ${INCLUDE_LIVENESS.include})`);
  }
  return (entry) => {
    const { id, role } = entry;
    // The VM may have left the reader's role since the list was made. The health of its services is as of now.
    const isInRole = registry.has(id) && registry.get(id).role === role;
    const health = isInRole ? registry.health.of(entry) : undefined;
    return entry.jsonWith({
      stale: registry.isStale(entry),
      ...(entry.isSuspect ? { suspect: true } : {}),
      ...(health ? { health } : {}),
    });
  };
}

/** The revision of a position. */
function revisionIn(position: string): number {
  return Number.parseInt(position, 10);
}

function encodePlain({ json }: VmRecord): string {
  return json;
}
