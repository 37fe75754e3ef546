/** The hot routes over `node:http`, or `node:https`, that sends the same bodies. */
import { PATHS } from '../../src/protocol/api.ts';
import { compete, cycle, handling, type Requests } from './compare.ts';
import { idOf } from './fleet.ts';
import type { Access, Lab } from './lab.ts';
import { readBody, requestOf } from './load.ts';
import type { Line, Row } from './row.ts';
import type { Server } from './servers.ts';

/** Turns before the first measured one: V8 optimizes the hot functions of a server within about 10,000 requests. */
const WARM_UP = 3;
/** Connections of the load, as in the measurements with `wrk -c32`. */
const CONNECTIONS = 32;
/** Bytes of all answers in progress. With a million VMs, fewer connections read at a time. */
const MAX_IN_PROGRESS = 1_200_000_000;
/** Bytes of the answers in a turn: half a second of a raw server. */
const TURN_BYTES = 500_000_000;
/** Requests in a turn, even if their answers are larger. */
const MIN_REQUESTS = 4;
/** Number of different VMs that the load names, spread over the fleet. */
const MAX_NAMED = 10_000;

interface HotRoute {
  name: string;
  method: 'GET' | 'POST';
  /** Paths of the requests for a fleet. */
  paths(vms: number): string[];
  goal: string;
}

const HOT: readonly HotRoute[] = [
  { name: 'heartbeat', method: 'POST', paths: (vms) => namedVms(vms).map((vm) => `${vm}/heartbeat`), goal: '≥ 0.85' },
  { name: 'get', method: 'GET', paths: namedVms, goal: '≥ 0.85' },
  { name: 'discover-infra', method: 'GET', paths: () => ['/registry/discover/infra'], goal: '≥ 0.85' },
];

/** Answers that grow with the fleet. */
const LONG: readonly HotRoute[] = [
  { name: 'discover-worker', method: 'GET', paths: () => ['/registry/discover/worker'], goal: '≥ 0.8' },
  { name: 'list', method: 'GET', paths: () => [PATHS.vms], goal: '≥ 0.8' },
];

const GROUPS: readonly { group: string; access: Access; routes: readonly HotRoute[]; over: string }[] = [
  { group: 'routes', access: 'open', routes: [...HOT, ...LONG], over: 'node:http' },
  { group: 'token', access: 'token', routes: HOT, over: 'node:http' },
  { group: 'tls', access: 'tls', routes: HOT, over: 'node:https' },
];

export const ROUTE_ROWS: readonly Row[] = GROUPS.flatMap(({ group, access, routes, over }) =>
  routes.map((route): Row => {
    const name = access === 'open' ? route.name : `${route.name}-${access}`;
    const goal = access === 'open' ? route.goal : '≥ 0.8';
    return {
      name,
      group,
      isPerFleet: true,
      measure: async (lab) => [{ name, unit: '1/s', over, goal, ...(await measureRoute(lab, route, access)) }],
    };
  }),
);

/** Paths of VMs that are spread over the fleet, in an order that is not that of their registration. */
function namedVms(vms: number): string[] {
  const count = Math.min(vms, MAX_NAMED);
  const step = Math.floor(vms / count);
  // Neighbours in this order are far apart in the fleet, because 7919 is a prime and no multiple of a fleet's size.
  return Array.from({ length: count }, (_, n) => `${PATHS.vms}/${idOf(((n * 7919) % count) * step)}`);
}

async function measureRoute(
  lab: Lab,
  { method, paths }: HotRoute,
  access: Access,
): Promise<Pick<Line, 'vreg' | 'floor' | 'cpu' | 'peer'>> {
  const daemon = await lab.daemon(access);
  const raw = await lab.raw(access);
  const named = paths(lab.vms);
  const body = await readBody(daemon, method, named[0]!);
  await raw.setBody(body);
  const peer = access === 'open' ? await lab.filledPeer() : undefined;
  const requests: Requests = {
    connections: Math.max(1, Math.min(CONNECTIONS, Math.floor(MAX_IN_PROGRESS / body.length))),
    count: Math.max(MIN_REQUESTS, Math.min(lab.options.requests, Math.floor(TURN_BYTES / body.length))),

    to: (target) => cycle(named.map((path) => requestOf(method, path, target))),
  };
  const servers: Server[] = [daemon, { ...raw, token: daemon.token }, ...(peer ? [peer] : [])];
  const contestants = await Promise.all(servers.map((server) => handling(server, requests)));
  const [vreg, floor, other] = await compete(contestants, { warmUp: WARM_UP, measured: lab.options.turns });
  return {
    vreg: vreg!.rate,
    floor: floor!.rate,
    cpu: { vreg: vreg!.cpu!, floor: floor!.cpu! },
    peer: other?.rate,
  };
}
