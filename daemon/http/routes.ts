/** The routes as one table. A handler parses, makes one call of the registry, and encodes. */
import type { FastifyRequest } from 'fastify';
import { type Health, type Heartbeat, INCLUDE_LIVENESS, PATHS } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { parseRegistration, parseUpdate } from '../../src/protocol/vm.ts';
import type { Entry } from '../registry/entry.ts';
import type { Registry } from '../registry/registry.ts';

export interface Answer {
  status: number;
  /** JSON. */
  body: string;
}

export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  /** True of a route that never needs a token. */
  open?: true;
  /** Level at which an answer below 400 is logged; changes by default at `info`, reads at `debug`. */
  logAt?: 'debug';
  handle(registry: Registry, request: FastifyRequest): Answer | Promise<Answer>;
}

export const ROUTES: readonly Route[] = [
  { method: 'GET', path: PATHS.health, open: true, handle: () => ok(health()) },
  {
    method: 'POST',
    path: PATHS.vms,
    handle: async (registry, request) => {
      const encode = encoder(registry, request);
      return { status: 201, body: encode(await registry.register(parseRegistration(request.body))) };
    },
  },
  {
    method: 'GET',
    path: PATHS.vms,
    handle: (registry, request) => {
      const { role, status } = readQuery(request, ['role', 'status']);
      return ok(listOf(registry.list({ role, status }), encoder(registry, request)));
    },
  },
  {
    method: 'GET',
    path: '/registry/vms/:id',
    handle: (registry, request) => ok(encoder(registry, request)(registry.get(idOf(request)))),
  },
  {
    method: 'PATCH',
    path: '/registry/vms/:id',
    handle: async (registry, request) => {
      const id = idOf(request);
      const encode = encoder(registry, request);
      // As the original registry: an unknown VM is a 404 whatever the body says.
      registry.get(id);
      return ok(encode(await registry.update(id, parseUpdate(request.body))));
    },
  },
  {
    method: 'DELETE',
    path: '/registry/vms/:id',
    handle: async (registry, request) => {
      await registry.deregister(idOf(request));
      return ok('{"deleted":true}');
    },
  },
  {
    method: 'POST',
    path: '/registry/vms/:id/heartbeat',
    logAt: 'debug',
    handle: (registry, request) => {
      const entry = registry.heartbeat(idOf(request));
      return ok(JSON.stringify({ id: entry.vm.id, lastSeen: entry.lastSeen } satisfies Heartbeat));
    },
  },
  {
    method: 'GET',
    path: '/registry/discover/:role',
    handle: (registry, request) => {
      const { role } = request.params as { role: string };
      // A script whose $ROLE is empty shall not read "nobody there".
      if (role === '') throw new VregError('NOT_FOUND', 'no such route: a role must follow /registry/discover/');
      return ok(listOf(registry.discover(role), encoder(registry, request)));
    },
  },
];

/** Methods that a path knows, for a 405's `Allow`; none for an unknown path. */
export function methodsOf(path: string): string[] {
  const methods = ROUTES.filter((route) => patternOf(route.path).test(path)).map((route) => route.method);
  return methods.includes('GET') ? ['HEAD', ...methods] : methods;
}

function patternOf(path: string): RegExp {
  return new RegExp(`^${path.replace(/:\w+/g, '[^/]+')}$`);
}

function idOf(request: FastifyRequest): string {
  return (request.params as { id: string }).id;
}

/** How entries are written for this request: plain, or with what `include` asks for. */
function encoder(registry: Registry, request: FastifyRequest): (entry: Entry) => string {
  const { include } = readQuery(request, ['include']);
  if (include === undefined) return (entry) => entry.json;
  if (include !== INCLUDE_LIVENESS.include)
    throw invalidQuery('include', `include: "${include}" is not known (one of liveness)`);
  return (entry) => entry.jsonWith({ stale: registry.isStale(entry) });
}

function readQuery<K extends string>(request: FastifyRequest, names: readonly K[]): { [name in K]?: string } {
  const query = request.query as Record<string, string | string[]>;
  const known: { [name in K]?: string } = {};
  for (const name of names) {
    const value = query[name];
    if (Array.isArray(value)) throw invalidQuery(name, `${name} is given ${value.length} times: give it once`);
    // An empty value is no filter, as the original registry reads it.
    if (value) known[name] = value;
  }
  return known;
}

function invalidQuery(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}

function ok(body: string): Answer {
  return { status: 200, body };
}

function listOf(entries: readonly Entry[], encode: (entry: Entry) => string): string {
  return `{"vms":[${entries.map(encode).join(',')}],"count":${entries.length}}`;
}

function health(): string {
  return JSON.stringify({ status: 'ok', uptime: process.uptime() } satisfies Health);
}
