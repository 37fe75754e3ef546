/** Compares contestants in turns, because only ratios within one run mean something. */
import { Load, type Target } from './load.ts';
import { median } from './row.ts';
import type { Probe, Server } from './servers.ts';

/** Work, and the time that it took. */
export interface Measured {
  /** Number of requests, or of whatever else is counted. */
  count: number;
  seconds: number;
}

export interface Contestant {
  /** Measures the CPU time; undefined if the process is not known. */
  probe?: Probe | undefined;
  turn(): Promise<Measured>;
  close(): void;
}

/** Medians over the turns. */
export interface Score {
  /** Requests per second. */
  rate: number;
  /** CPU time per request in microseconds; undefined without a probe. */
  cpu: number | undefined;
}

export interface Turns {
  warmUp: number;
  measured: number;
}

/** Runs all contestants in each turn. @returns a score for each, in their order */
export async function compete(contestants: readonly Contestant[], { warmUp, measured }: Turns): Promise<Score[]> {
  const scores = contestants.map(() => ({ rates: [] as number[], cpus: [] as number[] }));
  try {
    for (let turn = -warmUp; turn < measured; turn++) {
      for (const [index, contestant] of contestants.entries()) {
        const before = await contestant.probe?.usage();
        const { count, seconds } = await contestant.turn();
        const after = await contestant.probe?.usage();
        if (turn < 0) continue;
        scores[index]!.rates.push(count / seconds);
        if (before && after) scores[index]!.cpus.push((after.cpu - before.cpu) / count);
      }
    }
  } finally {
    for (const contestant of contestants) contestant.close();
  }
  return scores.map(({ rates, cpus }) => ({
    rate: median(rates),
    cpu: cpus.length > 0 ? median(cpus) : undefined,
  }));
}

export interface Requests {
  connections: number;
  /** Requests in a turn. */
  count: number;
  /** Makes a function that returns the next request. */
  to(target: Target): () => Buffer;
}

/** A server that handles the same number of requests in each turn. */
export async function handling(server: Server, { connections, count, to }: Requests): Promise<Contestant> {
  const load = await Load.open(server, connections);
  const request = to(server);
  return {
    probe: server.probe,
    turn() {
      let left = count;
      return load.run({ next: () => (left-- > 0 ? request() : undefined) });
    },
    close: () => load.close(),
  };
}

/** @returns a function that returns the items in order, again and again */
export function cycle<T>(items: readonly T[]): () => T {
  let at = 0;
  return () => items[at++ % items.length]!;
}
