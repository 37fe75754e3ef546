/** The routes as one table. A handler parses, makes one call of the registry, and encodes. */
import {
  type Health,
  type Heartbeat,
  type Heartbeats,
  MAX_BATCH,
  PATHS,
  SORTS,
  type Sort,
  type Why,
} from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { type Cleared, type Conflicts, parseBeat } from '../../src/protocol/heartbeat.ts';
import { comparison, parseSelector } from '../../src/protocol/selector.ts';
import type { Scope } from '../../src/protocol/token.ts';
import { parseIds, parseRegistration, parseUpdate } from '../../src/protocol/vm.ts';
import { enrol } from '../access/enrol.ts';
import { explain } from '../registry/explain.ts';
import type { Proof } from '../registry/identity.ts';
import { assertPermitted, permits } from '../registry/preconditions.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import { invalidQuery, type RequestContext, type Result } from './context.ts';
import { sendBackup } from './handlers/backup.ts';
import { discover } from './handlers/discover.ts';
import { streamEvents } from './handlers/events.ts';
import { history } from './handlers/history.ts';
import { metrics } from './handlers/metrics.ts';
import { createToken, listTokens, revokeEnrolledBy, revokeToken, whoami } from './handlers/tokens.ts';

/** Characters of an agent's address that are remembered: as long as a name may be (RFC 1035, 2.3.4). */
const MAX_ADDRESS = 255;

export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  /** The least scope that may ask; `any` asks only that there is a token, and `open` not even for that. */
  access: Scope | 'any' | 'open';
  /** True of a route by which a VM may enrol. */
  enrols?: true;
  /** True of a route for signs of life: they change nothing that anybody declared. */
  isBeat?: true;
  /** True of a route that looks at all VMs, or may answer them: where that takes long, it has its turn. */
  isLong?: true;
  /** @returns undefined when it has taken the reply into its own hands */
  handle(ctx: RequestContext): Result | undefined | Promise<Result | undefined>;
}

export const ROUTES: readonly Route[] = [
  {
    method: 'GET',
    path: PATHS.health,
    access: 'open',
    handle: () => ok({ status: 'ok', uptime: process.uptime() } satisfies Health),
  },
  {
    method: 'POST',
    path: PATHS.vms,
    access: 'register',
    enrols: true,
    handle: register,
  },
  { method: 'GET', path: PATHS.vms, access: 'read', isLong: true, handle: list },
  { method: 'GET', path: '/registry/vms/:id', access: 'read', handle: read },
  {
    method: 'PUT',
    path: '/registry/vms/:id',
    access: 'write',
    handle: async (ctx) => {
      const { entry, created } = await ctx.services.registry.replace(parseRegistration(ctx.body, ctx.id), ctx.write());
      return ctx.entry(entry, created ? 201 : 200);
    },
  },
  {
    method: 'PATCH',
    path: '/registry/vms/:id',
    access: 'write',
    handle: async (ctx) => {
      // As the original registry: an unknown VM is a 404 whatever the body says.
      ctx.services.registry.get(ctx.id);
      const update = parseUpdate(ctx.body);
      const options = ctx.write();
      return ctx.entry(await ctx.runScheduled(() => ctx.services.registry.update(ctx.id, update, options)));
    },
  },
  {
    method: 'DELETE',
    path: '/registry/vms/:id',
    access: 'write',
    handle: async (ctx) => {
      const options = ctx.write();
      await ctx.runScheduled(() => ctx.services.registry.deregister(ctx.id, options));
      return ok({ deleted: true });
    },
  },
  {
    method: 'POST',
    path: '/registry/vms/:id/heartbeat',
    access: 'heartbeat',
    isBeat: true,
    handle: (ctx) => {
      const proof = proofOf(ctx);
      // Another one speaks for the VM from now on: that is a change, which has its line in the log.
      if (proof?.replace) ctx.subject = { vm: ctx.id };
      const entry = ctx.services.registry.heartbeat(ctx.id, proof, ctx.principal.restriction);
      return ok({ id: entry.vm.id, lastSeen: entry.lastSeen } satisfies Heartbeat);
    },
  },
  { method: 'POST', path: PATHS.heartbeats, access: 'heartbeat', isBeat: true, handle: heartbeats },
  {
    method: 'GET',
    path: '/registry/vms/:id/history',
    access: 'read',
    handle: history,
  },
  {
    method: 'GET',
    path: '/registry/vms/:id/why',
    access: 'read',
    handle: (ctx) => {
      ctx.assertReadable(ctx.id);
      return ok(explain(ctx.services.registry, ctx.services.registry.get(ctx.id)) satisfies Why);
    },
  },
  {
    method: 'GET',
    path: '/registry/vms/:id/children',
    access: 'read',
    isLong: true,
    handle: (ctx) => {
      ctx.assertReadable(ctx.id);
      return ctx.entries(ctx.services.registry.lineage.children(ctx.id));
    },
  },
  {
    method: 'GET',
    path: '/registry/vms/:id/ancestors',
    access: 'read',
    isLong: true,
    handle: (ctx) => {
      ctx.assertReadable(ctx.id);
      return ctx.entries(ctx.services.registry.lineage.ancestors(ctx.id));
    },
  },
  {
    method: 'GET',
    path: '/registry/vms/:id/subtree',
    access: 'read',
    isLong: true,
    handle: (ctx) => {
      ctx.assertReadable(ctx.id);
      return ctx.entries(ctx.services.registry.lineage.subtree(ctx.id));
    },
  },
  {
    method: 'GET',
    path: PATHS.conflicts,
    access: 'read',
    isLong: true,
    handle: ({ services: { registry }, readFilter }) => {
      const isSeen = (id: string) =>
        !readFilter || permits(readFilter, registry.has(id) ? registry.get(id).vm : { id, role: '' });
      const conflicts = registry.identities.conflicts.filter(({ id }) => isSeen(id));
      return ok({ conflicts, count: conflicts.length } satisfies Conflicts);
    },
  },
  {
    method: 'DELETE',
    path: PATHS.conflicts,
    access: 'write',
    handle: clearConflicts,
  },
  { method: 'GET', path: '/registry/discover/:role', access: 'read', isLong: true, handle: discover },
  { method: 'GET', path: PATHS.events, access: 'read', isLong: true, handle: streamEvents },
  { method: 'GET', path: PATHS.backup, access: 'admin', handle: sendBackup },
  { method: 'GET', path: PATHS.metrics, access: 'read', isLong: true, handle: metrics },
  { method: 'GET', path: PATHS.whoami, access: 'any', handle: whoami },
  { method: 'GET', path: PATHS.tokens, access: 'admin', handle: listTokens },
  { method: 'POST', path: PATHS.tokens, access: 'admin', handle: createToken },
  { method: 'DELETE', path: PATHS.tokens, access: 'admin', handle: revokeEnrolledBy },
  { method: 'DELETE', path: '/registry/tokens/:name', access: 'admin', handle: revokeToken },
];

/** Methods that a path knows, for a 405's `Allow`; none for an unknown path. */
export function methodsOf(path: string): string[] {
  const methods = ROUTES.filter((route) => patternOf(route.path).test(path)).map((route) => route.method);
  return methods.includes('GET') ? ['HEAD', ...methods] : methods;
}

function patternOf(path: string): RegExp {
  return new RegExp(`^${path.replace(/:\w+/g, '[^/]+')}$`);
}

function read(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return ctx.read(ctx.services.registry.get(ctx.id));
}

async function register(ctx: RequestContext): Promise<Result> {
  const registration = parseRegistration(ctx.body);
  const { principal } = ctx;
  const { registry, authenticator } = ctx.services;
  ctx.subject = { vm: registration.id };
  if (principal.scope !== 'enrol') return ctx.entry(await registry.register(registration, ctx.write()), 201);
  const enrolment = { enroller: principal.token!, registration, from: ctx.remoteAddress, write: ctx.write() };
  const { entry, secret } = await enrol(registry, authenticator.tokens, enrolment);
  return { ...ctx.entry(entry, 201), body: entry.jsonWith({ token: secret }) };
}

/** A clone shall not take back what was found out about it, so a token for some VMs is none for this. */
async function clearConflicts(ctx: RequestContext): Promise<Result> {
  if (ctx.principal.restriction) {
    throw new VregError('FORBIDDEN', 'a token that is limited to some VMs cannot clear conflicts', {
      hint: 'give one of the scope write without a limit',
    });
  }
  const { registry } = ctx.services;
  const cleared = await registry.identities.clear(ctx.query('id').id, () => registry.saveHeartbeats());
  return ok({ cleared } satisfies Cleared);
}

function list(ctx: RequestContext): Result | Promise<Result> {
  const { role, status, selector, sort = 'registered' } = ctx.query('role', 'status', 'selector', 'sort');
  const limit = ctx.number('limit', 1, Number.MAX_SAFE_INTEGER);
  if (!SORTS.includes(sort as Sort))
    throw invalidQuery('sort', `sort: "${sort}" is not known (one of ${SORTS.join(', ')})`);
  const answer = (entries: readonly VmRecord[]) => {
    const inOrder = sorted(entries, sort as Sort);
    return ctx.entries(limit === undefined ? inOrder : inOrder.slice(0, limit));
  };
  const { readFilter } = ctx;
  const all = ctx.services.registry.list({ role, status });
  const entries = readFilter ? all.filter(({ vm }) => permits(readFilter, vm)) : all;
  if (selector === undefined) return answer(entries);
  const selected = parseSelector(selector);
  const isWanted = () => !ctx.response.destroyed;
  return ctx.services.scheduler.filter(entries, ({ vm }) => selected(vm), isWanted).then(answer);
}

function sorted(entries: readonly VmRecord[], sort: Sort): readonly VmRecord[] {
  const order = comparison(sort);
  if (!order) return entries;
  const keyed = entries.map((entry) => {
    const { id, name, role } = entry.vm;
    return { entry, key: { id, name, role, lastSeen: sort === 'seen' ? entry.lastSeen : '' } };
  });
  return keyed.sort((a, b) => order(a.key, b.key)).map(({ entry }) => entry);
}

/** What an agent says with its beat, and from where. */
function proofOf({ body, remoteAddress }: RequestContext): Proof | undefined {
  const beat = parseBeat(body);
  if (!beat) return undefined;
  const address = beat.address?.slice(0, MAX_ADDRESS);
  return { ...beat, ...(address === undefined ? {} : { address }), from: remoteAddress };
}

async function heartbeats({ services, body, principal }: RequestContext): Promise<Result> {
  const { registry, scheduler } = services;
  const unknown: string[] = [];
  const ids = new Set(parseIds(body, MAX_BATCH));
  // All before any, so that a refusal has done nothing.
  for (const id of ids) {
    if (registry.has(id)) assertPermitted(principal.restriction, registry.get(id).vm);
    else unknown.push(id);
  }
  const beat = (id: string) =>
    registry.has(id) && permits(principal.restriction, registry.get(id).vm) && !!registry.heartbeat(id);
  // The beats of a client that has gone count, too.
  await scheduler.filter([...ids], beat, () => true);
  const lastSeen = new Date(registry.clock.now()).toISOString();
  return ok({ lastSeen, count: ids.size - unknown.length, unknown } satisfies Heartbeats);
}

function ok(value: unknown): Result {
  return { status: 200, body: JSON.stringify(value) };
}
