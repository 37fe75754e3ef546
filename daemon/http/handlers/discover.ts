/** `GET /registry/discover/:role`, at once or when there are enough live VMs. */
import { DEFAULT_WAIT_MIN, type DiscoverQuery, MAX_WAIT } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { assertActive } from '../../access/authenticator.ts';
import { permits } from '../../registry/preconditions.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { invalidQuery, type RequestContext, type Result } from '../context.ts';

/**
 * With `wait=30s` the answer is held until at least `min` (default 1) VMs are live, or the time is over; then it is what
 * there is, so a caller looks at the count as without waiting.
 */
export function discoverWhen(ctx: RequestContext): Result | Promise<Result> {
  const { role = '' } = ctx.params;
  const { registry } = ctx.services;
  // A script whose $ROLE is empty shall not read "nobody there".
  if (role === '') throw new VregError('NOT_FOUND', 'no such route: a role must follow /registry/discover/');
  const { wait } = ctx.query('wait');
  const patience = wait === undefined ? 0 : parseWait(wait);
  const min = ctx.number('min', 0, Number.MAX_SAFE_INTEGER) ?? DEFAULT_WAIT_MIN;
  const query = readQuery(ctx);
  const { readFilter } = ctx;
  const look = () => {
    const live = registry.discover(role, query);
    return readFilter ? live.filter(({ vm }) => permits(readFilter, vm)) : live;
  };
  // Who counts strictly is told of the warming about those, too, whom that leaves out.
  const answer = (found: readonly VmRecord[]) =>
    ctx.entries(found, query.strict ? registry.discover(role, { ...query, strict: false }) : found);
  const found = look();
  if (patience === 0 || found.length >= min) return answer(found);
  return waitFor(ctx, role, { query, look, min, patience, answer });
}

function readQuery(ctx: RequestContext): DiscoverQuery {
  const { service } = ctx.query('service');
  const passing = ctx.flag('passing');
  if (passing && service === undefined)
    throw invalidQuery('passing', 'passing: say which service must pass, with service=NAME');
  return { service, passing, strict: ctx.flag('strict') };
}

interface Wait {
  query: DiscoverQuery;
  look(): VmRecord[];
  min: number;
  /** Milliseconds. */
  patience: number;
  answer(found: readonly VmRecord[]): Result;
}

/** Answers when there is enough, and at the latest when the time is over or the caller has gone. */
function waitFor(ctx: RequestContext, role: string, { query, look, min, patience, answer }: Wait): Promise<Result> {
  const { response, principal, readFilter } = ctx;
  const { registry, openStreams, longPolls } = ctx.services;
  const release = openStreams.take();
  return new Promise((resolve, reject) => {
    const finish = (found: readonly VmRecord[]) => {
      clearTimeout(timer);
      release();
      watch.leave();
      stopWatching();
      stay();
      response.off('close', stop);
      try {
        assertActive(principal);
        resolve(answer(found));
      } catch (error) {
        reject(error);
      }
    };
    const stop = () => finish(look());
    const watch = longPolls.join(JSON.stringify([role, query, readFilter?.vm, readFilter?.role]), look, min, finish);
    const timer = setTimeout(watch.over, patience);
    const stopWatching = registry.events.subscribe({
      event: (event) => {
        if (event.role === role) watch.look();
      },
      // A beat may say that a service passes by now.
      heartbeat: ({ vm }) => {
        if (vm.role === role) watch.look();
      },
    });
    response.once('close', stop);
    const stay = ctx.onAbort(stop);
  });
}

/** Milliseconds of `30s` or `500ms`, at most {@link MAX_WAIT}. */
function parseWait(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(text) ?? [];
  if (amount === undefined) throw invalidQuery('wait', `wait: "${text}" is not a duration such as 30s`);
  return Math.min(Number(amount) * { ms: 1, s: 1000, m: 60_000 }[unit as 'ms' | 's' | 'm'], MAX_WAIT);
}
