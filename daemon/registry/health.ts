/** What agents found when they probed their VMs' own services. Kept in memory: the next beat says it again. */
import type { ServiceHealth } from '../../src/protocol/heartbeat.ts';
import type { VmRecord } from './vm-record.ts';

export type HealthReport = Readonly<Record<string, ServiceHealth>>;

/** Order of preference: a service that nobody probes may well work. */
const RANK = { passing: 0, unknown: 1, failing: 2 } as const;

export class HealthReports {
  readonly #reports = new Map<string, HealthReport>();

  /**
   * Takes the place of what the VM's agent said before. Of services that the VM does not have nothing is kept: an agent
   * may name as many as it likes, and they are in no limit of the registry.
   */
  put({ vm }: VmRecord, report: HealthReport): void {
    const known = knownOf(vm, report);
    if (known) this.#reports.set(vm.id, known);
    else this.#reports.delete(vm.id);
  }

  /** The VM's services may be others by now. */
  trim(entry: VmRecord): void {
    const report = this.#reports.get(entry.vm.id);
    if (report) this.put(entry, report);
  }

  forget(id: string): void {
    this.#reports.delete(id);
  }

  /** Of the services that the entry has now; undefined when none of them is probed. */
  of({ vm }: VmRecord): HealthReport | undefined {
    const report = this.#reports.get(vm.id);
    return report && knownOf(vm, report);
  }

  /** Those that have a service, the ones where it passes first and those where it fails last; else in their order. */
  offering(entries: readonly VmRecord[], service: string, passingOnly: boolean): VmRecord[] {
    // Those of a rank stay in their order. A loop, since many may wait for this over many VMs.
    const ranks: [VmRecord[], VmRecord[], VmRecord[]] = [[], [], []];
    for (const entry of entries) {
      if (!entry.vm.services?.some(({ name }) => name === service)) continue;
      const report = this.#reports.get(entry.vm.id);
      const health = (report && Object.hasOwn(report, service) ? report[service] : undefined) ?? 'unknown';
      ranks[RANK[health]].push(entry);
    }
    const [passing, unknown, failing] = ranks;
    return passingOnly ? passing : [...passing, ...unknown, ...failing];
  }
}

/** What the report says of the services that the VM has; undefined when that is nothing. */
function knownOf(vm: VmRecord['vm'], report: HealthReport): HealthReport | undefined {
  const known = (vm.services ?? []).flatMap(({ name }): [string, ServiceHealth][] => {
    const health = Object.hasOwn(report, name) ? report[name] : undefined;
    return health ? [[name, health]] : [];
  });
  return known.length > 0 ? Object.fromEntries(known) : undefined;
}
