/** `GET /registry/discover/:role`: the live VMs with a role, immediately or as soon as there are enough of them. */
import { DEFAULT_WAIT_MIN, type DiscoverQuery, MAX_WAIT } from '../../../src/protocol/api.ts';
import { durationOf } from '../../../src/protocol/duration.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { assertActive } from '../../access/authenticator.ts';
import { permits } from '../../registry/preconditions.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { invalidQuery, type RequestContext, type Result } from '../context.ts';
import { listResult, listTag, snapshotResult } from '../results.ts';

/**
 * Returns the live VMs with a role. With `wait=30s`, the response is delayed until at least `min` VMs (default 1) are live or
 * the time is up. The body has the same form in both cases, so clients must check `count`. A HEAD request does not wait,
 * because that would not change the headers.
 */
export function discover(ctx: RequestContext): Result | Promise<Result> {
  const role = requireRole(ctx);
  const wait = ctx.param('wait');
  const timeoutMs = wait === undefined ? 0 : parseWait(wait);
  const min = ctx.number('min', 0, Number.MAX_SAFE_INTEGER) ?? DEFAULT_WAIT_MIN;
  const query = readQuery(ctx);
  const isImmediate = timeoutMs === 0 || ctx.method === 'HEAD';
  if (isImmediate && isShared(ctx, query)) return respond(ctx, role, query, []);
  // With `strict`, VMs leave the list as time passes.
  const tag = query.strict ? undefined : listTag(ctx, role);
  const find = () => findLive(ctx, role, query);
  const found = find();
  if (isImmediate || found.length >= min) return respond(ctx, role, query, found, tag);
  return longPoll(ctx, { role, query, find, min, timeoutMs });
}

/** @throws VregError NOT_FOUND: an empty $ROLE in a script must not look like an empty fleet */
function requireRole({ params: { role = '' } }: RequestContext): string {
  if (role === '') throw new VregError('NOT_FOUND', 'no such route: a role must follow /registry/discover/');
  return role;
}

function readQuery(ctx: RequestContext): DiscoverQuery {
  const service = ctx.param('service');
  const passing = ctx.flag('passing');
  if (passing && service === undefined) throw invalidQuery('passing', 'passing=true requires service=NAME');
  return { service, passing, strict: ctx.flag('strict') };
}

function findLive({ services, readFilter }: RequestContext, role: string, query: DiscoverQuery): VmRecord[] {
  const live = services.registry.discover(role, query);
  return readFilter ? live.filter((entry) => permits(readFilter, entry)) : live;
}

/** True if the response is a list that all readers share. */
function isShared({ readFilter, isPlain }: RequestContext, { service, strict }: DiscoverQuery): boolean {
  return readFilter === undefined && service === undefined && !strict && isPlain;
}

/** @param tag of the list; a long poll has none, because the list may have changed since it was found */
function respond(
  ctx: RequestContext,
  role: string,
  query: DiscoverQuery,
  found: readonly VmRecord[],
  tag?: string,
): Result {
  const { registry } = ctx.services;
  if (isShared(ctx, query)) return snapshotResult(ctx, registry.liveSnapshot(role));
  if (!query.strict) return listResult(ctx, found, { tag });
  // In strict mode, compute the warming header from the omitted VMs as well, because their liveness is uncertain.
  return listResult(ctx, found, { offered: registry.discover(role, { ...query, strict: false }) });
}

interface LongPoll {
  role: string;
  query: DiscoverQuery;
  find(): VmRecord[];
  min: number;
  timeoutMs: number;
}

/** Waits to respond until enough VMs are live, the time is up, the daemon stops, or the principal is revoked. */
function longPoll(ctx: RequestContext, { role, query, find, min, timeoutMs }: LongPoll): Promise<Result> {
  const { response, principal, readFilter } = ctx;
  const { registry, openStreams, longPolls } = ctx.services;
  const release = openStreams.acquire();
  return new Promise((resolve, reject) => {
    const finish = (found: readonly VmRecord[]) => {
      clearTimeout(timer);
      release();
      waiter.leave();
      unsubscribe();
      offAbort();
      response.off('close', finishNow);
      // The VMs were found in this turn of the event loop, so the position is not newer than they are.
      ctx.position = registry.positions.current;
      try {
        assertActive(principal);
        resolve(respond(ctx, role, query, found));
      } catch (error) {
        reject(error);
      }
    };
    const finishNow = () => finish(find());
    const key = JSON.stringify([role, query, readFilter?.vm, readFilter?.role]);
    const waiter = longPolls.join(key, find, min, finish);
    const timer = setTimeout(waiter.expire, timeoutMs);
    const recheck = (changed: string) => {
      if (changed === role) waiter.recheck();
    };
    const unsubscribe = registry.events.subscribe({
      event: (event) => recheck(event.role),
      // For `passing` and `strict`. No other heartbeat can complete a long poll.
      discoverable: ({ role }) => recheck(role),
    });
    response.once('close', finishNow);
    const offAbort = ctx.onAbort(finishNow);
  });
}

/** Parses a duration such as `30s`. @returns milliseconds, at most {@link MAX_WAIT} */
function parseWait(text: string): number {
  const ms = durationOf(text);
  if (ms === undefined) throw invalidQuery('wait', `wait: "${text}" is not a duration such as 30s`);
  return Math.min(ms, MAX_WAIT);
}
