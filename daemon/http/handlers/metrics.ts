/** `GET /health`, and `GET /metrics` in the text format of Prometheus or as OpenMetrics. Both are computed for each request. */
import type { Health } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { Exposition, type Sample } from '../../observability/exposition.ts';
import type { RequestContext, Result } from '../context.ts';
import { jsonResult } from '../results.ts';
import type { Services } from '../services.ts';

export function health(): Result {
  return jsonResult({ status: 'ok', uptime: process.uptime() } satisfies Health);
}

/** @throws VregError FORBIDDEN for a restricted token, because the metrics count all VMs */
export async function metrics({ services, readFilter, headers }: RequestContext): Promise<Result> {
  if (readFilter) {
    throw new VregError('FORBIDDEN', 'a restricted token cannot read the metrics of the entire fleet', {
      hint: 'create a token without --vm or --role: vreg token create NAME --scope read',
    });
  }
  const all = new Exposition(headers.accept);
  describeFleet(services, all);
  describeRegistry(services, all);
  describeRequests(services, all);
  await describeStore(services, all);
  describeLimits(services, all);
  describeProcess(services, all);
  return { status: 200, body: await all.text(), type: all.contentType, headers: { vary: 'Accept' } };
}

function describeFleet({ registry }: Services, all: Exposition): void {
  all.gauge(
    'vreg_vms',
    'Registered VMs by role, declared status and liveness (live, suspect, stale; none unless running).',
    // Also the zeros: Prometheus cannot distinguish a series that disappears from one that was never scraped.
    registry.census().map(({ count, ...labels }) => ({ labels, value: count })),
  );
  all.gauge(
    'vreg_warming_seconds',
    'Seconds for which responses may still include dead VMs, at the most; 0 if they cannot.',
    registry.warmingSeconds,
  );
}

function describeRegistry({ registry, version }: Services, all: Exposition): void {
  all.gauge('vreg_info', 'Version of the daemon and id of the registry.', [
    { labels: { version, registry: registry.id }, value: 1 },
  ]);
  all.gauge('vreg_lease_seconds', 'The lease.', registry.staleAfter / 1000);
  all.gauge('vreg_revision', 'Revision of the last committed change.', registry.revision);
  all.counter('vreg_heartbeats_total', 'Accepted heartbeats.', registry.heartbeatCount);
  all.gauge('vreg_conflicts', 'Identity conflicts on record.', registry.conflicts.count);
  const { rolledBack, otherRegistry } = registry.historyClaims;
  all.gauge(
    'vreg_rollback_vms',
    'VMs whose agents have sent a position of another history since the start: this registry was restored or copied.',
    rolledBack,
  );
  all.gauge(
    'vreg_other_registry',
    '1 if an agent has reported that another registry answers at the URL of this one.',
    otherRegistry ? 1 : 0,
  );
}

function describeRequests({ requests, counters, fanout, longPolls }: Services, all: Exposition): void {
  const labelled = [...requests.all()].map((counted) => {
    const { method = 'other', path: route = 'unknown' } = counted.route ?? {};
    return { ...counted, labels: { method, route } };
  });
  all.counter(
    'vreg_http_requests_total',
    'Requests by route and status. HEAD counts as GET; 499 means that the client left before the response.',
    labelled.flatMap(({ labels, statuses }) =>
      statuses.map(({ status, count }) => ({ labels: { ...labels, status: String(status) }, value: count })),
    ),
  );
  all.histogram(
    'vreg_http_request_duration_seconds',
    'Time from the arrival of the headers to the start of the response, without long polls.',
    labelled
      .filter(({ statuses }) => statuses.length > 0)
      .map(({ labels, seconds }) => ({ labels, histogram: seconds })),
  );
  all.counter(
    'vreg_refusals_total',
    'Refused and failed requests by the code of the error.',
    [...requests.refusals].map(([code, value]) => ({ labels: { code }, value })),
  );
  all.counter(
    'vreg_unknown_query_parameters_total',
    'Query parameters that the requested route does not know; the log names them at the level debug.',
    counters.unknownParameters,
  );
  all.gauge('vreg_subscribers', 'Open event streams.', fanout.listeners);
  all.gauge('vreg_long_polls', 'Long polls that wait for live VMs.', longPolls.count);
}

async function describeStore({ store }: Services, all: Exposition): Promise<void> {
  all.histogram(
    'vreg_store_commit_duration_seconds',
    'Time from the acceptance of a change until it is durable, or has failed.',
    [{ histogram: store.commitSeconds }],
  );
  all.counter('vreg_store_write_failures_total', 'Changes and saves of heartbeats that failed.', store.writeFailures);
  all.gauge(
    'vreg_store_write_failing',
    '1 if the last change, or the last save of heartbeats, failed.',
    store.writeFailure ? 1 : 0,
  );
  const size = await store.size();
  if (size !== undefined) all.gauge('vreg_store_size_bytes', 'Size of the database and its log.', size);
}

function describeLimits({ budgets, authenticator }: Services, all: Exposition): void {
  const samplesOf = (numberOf: (budget: { used: number; limit: number }) => number): Sample[] =>
    Object.values(budgets).map((budget) => ({ labels: { budget: budget.name }, value: numberOf(budget) }));
  all.gauge(
    'vreg_budget_used_bytes',
    'Reserved bytes of each memory budget.',
    samplesOf(({ used }) => used),
  );
  all.gauge(
    'vreg_budget_limit_bytes',
    'Size of each memory budget.',
    samplesOf(({ limit }) => limit),
  );
  all.gauge(
    'vreg_throttled_clients',
    'Addresses that have sent too many invalid tokens and must wait.',
    authenticator.throttledClients,
  );
}

function describeProcess({ eventLoop, heapLimit }: Services, all: Exposition): void {
  const { p50, p99, max } = eventLoop.delays;
  all.gauge(
    'vreg_event_loop_delay_seconds',
    'Delay of timers in this minute or in the one before, whichever is longer.',
    [
      { labels: { percentile: '50' }, value: p50 },
      { labels: { percentile: '99' }, value: p99 },
      { labels: { percentile: '100' }, value: max },
    ],
  );
  all.counter('vreg_event_loop_busy_seconds_total', 'Time for which the event loop was busy.', eventLoop.busySeconds);
  const { heapUsed, rss } = process.memoryUsage();
  all.gauge('vreg_heap_used_bytes', 'Used heap of the main thread.', heapUsed);
  all.gauge('vreg_heap_limit_bytes', 'Heap that the main thread may use.', heapLimit);
  all.gauge('process_resident_memory_bytes', 'Memory of the process, with all threads.', rss);
  const { user, system } = process.cpuUsage();
  all.counter('process_cpu_seconds_total', 'Processor time of the process, with all threads.', (user + system) / 1e6);
  // Queries notice a restart by a change of this value, so it must not follow adjustments of the clock.
  all.gauge(
    'process_start_time_seconds',
    'Start of the process in seconds since the epoch.',
    performance.timeOrigin / 1000,
  );
  all.gauge('vreg_uptime_seconds', 'Seconds since the daemon was started.', process.uptime());
}
