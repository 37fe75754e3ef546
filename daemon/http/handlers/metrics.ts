/** `GET /health`, and `GET /metrics` in the text format of Prometheus. Both are computed for each request. */
import { Counter, Gauge, Registry as Metrics } from 'prom-client';
import type { Health } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { ROLES, STATUSES } from '../../../src/protocol/vm.ts';
import { warmingOf } from '../../registry/explain.ts';
import type { Registry } from '../../registry/registry.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { jsonResult, type RequestContext, type Result } from '../context.ts';

export function health(): Result {
  return jsonResult({ status: 'ok', uptime: process.uptime() } satisfies Health);
}

/** @throws VregError FORBIDDEN for a restricted token, because the metrics count all VMs */
export async function metrics({ services, readFilter }: RequestContext): Promise<Result> {
  if (readFilter) {
    throw new VregError('FORBIDDEN', 'a restricted token cannot read the metrics of the entire fleet', {
      hint: 'create a token without --vm or --role: vreg token create NAME --scope read',
    });
  }
  const { registry } = services;
  const all = new Metrics();
  const gauge = (name: string, help: string, value: number) => new Gauge({ name, help, registers: [all] }).set(value);
  const entries = registry.list({});
  countVms(registry, entries, all);
  const warming = warmingOf(entries, registry.clock, registry.staleAfter);
  gauge(
    'vreg_warming_seconds',
    'Seconds for which responses may still include dead VMs; 0 if they cannot.',
    warming?.seconds ?? 0,
  );
  gauge('vreg_revision', 'Revision of the last committed change.', registry.revision);
  gauge('vreg_conflicts', 'Identity conflicts on record.', registry.identities.conflicts.length);
  gauge(
    'vreg_rollback_vms',
    'VMs whose agents have sent a position of another history since the start: this registry was restored or copied.',
    registry.historyClaims.rolledBack,
  );
  gauge('vreg_watchers', 'Subscribers of the event stream and open long polls.', registry.events.subscriberCount);
  gauge('vreg_uptime_seconds', 'Seconds since the daemon was started.', process.uptime());
  new Counter({
    name: 'vreg_unknown_query_parameters_total',
    help: 'Query parameters that the requested route does not know; the log names them at the level debug.',
    registers: [all],
  }).inc(services.counters.unknownParameters);
  return { status: 200, body: await all.metrics(), type: all.contentType };
}

function countVms(registry: Registry, entries: readonly VmRecord[], all: Metrics): void {
  const vms = new Gauge({
    name: 'vreg_vms',
    help: 'Registered VMs by role, declared status and liveness (live, suspect, stale; none unless running).',
    labelNames: ['role', 'status', 'liveness'],
    registers: [all],
  });
  // Also report zeros: Prometheus cannot distinguish a series that disappears from one that was never scraped.
  for (const role of ROLES) {
    for (const status of STATUSES) {
      for (const liveness of status === 'running' ? ['live', 'suspect', 'stale'] : ['none'])
        vms.set({ role, status, liveness }, 0);
    }
  }
  for (const entry of entries) {
    const { role, status } = entry;
    vms.inc({ role, status, liveness: registry.livenessOf(entry) ?? 'none' });
  }
}
