/** `GET /health`, and `GET /metrics` in the text format of Prometheus. Both are computed for each request. */
import { Counter, Gauge, Registry as Metrics } from 'prom-client';
import type { Health } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { ROLES, STATUSES } from '../../../src/protocol/vm.ts';
import { warmingOf } from '../../registry/explain.ts';
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
  const warming = await countVms(services, all);
  gauge('vreg_warming_seconds', 'Seconds for which responses may still include dead VMs; 0 if they cannot.', warming);
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

/** Number of VMs to count in one step: less than a millisecond. */
const COUNT_STEP = 1000;

/** Counts the VMs in slices. @returns seconds for which responses may still include dead VMs; 0 if they cannot */
async function countVms({ registry, scheduler }: RequestContext['services'], all: Metrics): Promise<number> {
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
  const entries = registry.list({});
  let warming = 0;
  let at = 0;
  await scheduler.repeat(() => {
    const step = entries.slice(at, at + COUNT_STEP);
    at += step.length;
    for (const entry of step) {
      const { role, status } = entry;
      vms.inc({ role, status, liveness: registry.livenessOf(entry) ?? 'none' });
    }
    warming = Math.max(warming, warmingOf(step, registry.clock, registry.staleAfter)?.seconds ?? 0);
    return at < entries.length;
  });
  return warming;
}
