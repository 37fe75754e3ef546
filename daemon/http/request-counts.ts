/**
 * Counts requests by route and status, for the metrics. The labels are those of the table of routes, so their number does not
 * depend on clients.
 */
import type { ErrorCode } from '../../src/protocol/errors.ts';
import { Histogram } from '../observability/histogram.ts';

/** The part of a row in the table of routes that labels its requests. */
interface CountedRoute {
  readonly method: string;
  readonly path: string;
  readonly query: readonly string[];
}

/** The part of a request context that is counted. */
interface CountedRequest {
  readonly route: CountedRoute | undefined;
  readonly startedAt: number;
  readonly queryParams: Readonly<Record<string, unknown>>;
  readonly request: { readonly errored: Error | null; readonly complete: boolean };
  readonly response: { readonly destroyed: boolean };
  isCounted: boolean;
}

/** Statuses from 200 to 599 have a place in the arrays. */
const MIN_STATUS = 200;
const STATUSES = 400;
/** The status of nginx for a request whose client left before it was answered. */
const CLIENT_LEFT = 499;

class RouteCounts {
  readonly statuses = new Float64Array(STATUSES);
  readonly seconds = new Histogram();
  /** The route has long polls, whose time depends on the fleet. */
  readonly mayWait: boolean;

  constructor(route: CountedRoute | undefined) {
    this.mayWait = route?.query.includes('wait') ?? false;
  }
}

/** The counts of one route, which is undefined for the requests that have none. */
export interface RouteTotals {
  route: CountedRoute | undefined;
  statuses: { status: number; count: number }[];
  seconds: Histogram;
}

export class RequestCounts {
  readonly #routes = new Map<CountedRoute | undefined, RouteCounts>();
  /** Number of refused requests by error code. */
  readonly refusals = new Map<ErrorCode, number>();

  constructor(routes: readonly CountedRoute[]) {
    for (const route of [...routes, undefined]) this.#routes.set(route, new RouteCounts(route));
  }

  /**
   * Counts a request whose status is decided. A long poll has no latency, because it waits for the fleet. Further calls for the
   * same request have no effect.
   * @param code of the error with which it was refused
   */
  count(counted: CountedRequest, status: number, code?: ErrorCode): void {
    if (counted.isCounted) return;
    counted.isCounted = true;
    const { route, startedAt, queryParams, request, response } = counted;
    const counts = this.#routes.get(route)!;
    // A request without a body is destroyed before it is complete by newer versions of Node, but without an error.
    const hasLeft = response.destroyed || (request.errored !== null && !request.complete);
    counts.statuses[(hasLeft ? CLIENT_LEFT : status) - MIN_STATUS]!++;
    if (code !== undefined && !hasLeft) this.#countRefusal(code);
    if (counts.mayWait && queryParams.wait !== undefined) return;
    counts.seconds.observe((performance.now() - startedAt) / 1000);
  }

  /** Counts a request that the server has refused without the app. */
  countUnparsed(status: number, code: ErrorCode): void {
    this.#countRefusal(code);
    this.#routes.get(undefined)!.statuses[status - MIN_STATUS]!++;
  }

  #countRefusal(code: ErrorCode): void {
    this.refusals.set(code, (this.refusals.get(code) ?? 0) + 1);
  }

  *all(): Iterable<RouteTotals> {
    for (const [route, { statuses, seconds }] of this.#routes) {
      const used = Array.from(statuses, (count, at) => ({ status: at + MIN_STATUS, count }));
      yield { route, statuses: used.filter(({ count }) => count > 0), seconds };
    }
  }
}
