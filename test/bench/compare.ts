/** Compares servers by the same load, in turns, because only ratios within one run mean something. */
import { Load, type Target } from './load.ts';
import { median } from './row.ts';
import type { Server } from './servers.ts';

export interface Contest {
  turns: number;
  /** Requests in a turn. */
  requests: number;
  connections: number;
  /** Status of each answer. */
  expect: number;
  /** Makes the requests to a server. It is called again and again until the turn is over. */
  requestsTo(target: Target): () => Buffer;
}

/** Turns before the first measured one: V8 optimizes the hot functions of a server within about 10,000 requests. */
const WARM_UP = 2;

/** Medians over the turns. */
export interface Score {
  /** Requests per second. */
  rate: number;
  /** CPU time of the server per request, microseconds; undefined for a peer. */
  cpu: number | undefined;
}

/** @returns a score for each server, in their order @throws Error if a server does not answer as expected */
export async function compete(servers: readonly Server[], contest: Contest): Promise<Score[]> {
  const racers = await Promise.all(
    servers.map(async (server) => ({
      server,
      load: await Load.open(server, contest.connections),
      request: contest.requestsTo(server),
      rates: [] as number[],
      cpus: [] as number[],
    })),
  );
  try {
    for (let turn = -WARM_UP; turn < contest.turns; turn++) {
      for (const { server, load, request, rates, cpus } of racers) {
        const before = await server.probe?.usage();
        let left = contest.requests;
        const next = () => (left-- > 0 ? request() : undefined);
        const { count, seconds } = await load.run({ next, expect: contest.expect });
        const after = await server.probe?.usage();
        if (turn < 0) continue;
        rates.push(count / seconds);
        if (before && after) cpus.push((after.cpu - before.cpu) / count);
      }
    }
  } finally {
    for (const { load } of racers) load.close();
  }
  return racers.map(({ rates, cpus }) => ({
    rate: median(rates),
    cpu: cpus.length > 0 ? median(cpus) : undefined,
  }));
}

/** Calls the function for each item in turn, again and again. */
export function cycle<T>(items: readonly T[]): () => T {
  let at = 0;
  return () => items[at++ % items.length]!;
}
