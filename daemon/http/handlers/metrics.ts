/** `GET /metrics`: the fleet in numbers, in the text format of Prometheus. Read when it is asked for, never kept. */
import { Gauge, Registry as Metrics } from 'prom-client';
import { VregError } from '../../../src/protocol/errors.ts';
import { ROLES, STATUSES } from '../../../src/protocol/vm.ts';
import { warmingOf } from '../../registry/explain.ts';
import type { Registry } from '../../registry/registry.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import type { RequestContext, Result } from '../context.ts';

export async function metrics({ services, readFilter }: RequestContext): Promise<Result> {
  if (readFilter) {
    throw new VregError('FORBIDDEN', 'a token that is limited to some VMs cannot ask for numbers of all', {
      hint: 'make one without a limit: vreg token create NAME --scope read',
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
    'For how long answers may still name dead VMs; 0 when they cannot.',
    warming?.seconds ?? 0,
  );
  gauge('vreg_revision', 'Changes committed so far.', registry.revision);
  gauge('vreg_conflicts', 'Identity conflicts on record.', registry.identities.conflicts.length);
  gauge('vreg_watchers', 'Readers of the stream of events.', registry.events.subscriberCount);
  gauge('vreg_uptime_seconds', 'Since the daemon was started.', process.uptime());
  return { status: 200, body: await all.metrics(), type: all.contentType };
}

function countVms(registry: Registry, entries: readonly VmRecord[], all: Metrics): void {
  const vms = new Gauge({
    name: 'vreg_vms',
    help: 'Registered VMs by role, declared status and liveness (live, suspect, stale; none unless running).',
    labelNames: ['role', 'status', 'liveness'],
    registers: [all],
  });
  // Zeros, too: a series that vanishes looks like one that was never asked for.
  for (const role of ROLES) {
    for (const status of STATUSES) {
      for (const liveness of status === 'running' ? ['live', 'suspect', 'stale'] : ['none'])
        vms.set({ role, status, liveness }, 0);
    }
  }
  for (const entry of entries) {
    const { role, status } = entry.vm;
    vms.inc({ role, status, liveness: registry.livenessOf(entry) ?? 'none' });
  }
}
