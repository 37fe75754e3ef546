/** The health of services, as probed by the agents. It is not stored, because each heartbeat repeats it. */
import type { ServiceHealth } from '../../src/protocol/heartbeat.ts';
import type { VmRecord } from './vm-record.ts';

export type HealthReport = Readonly<Record<string, ServiceHealth>>;

/** Order of preference. A service without a probe comes before a failing one, because it may work. */
const RANK = { passing: 0, unknown: 1, failing: 2 } as const;

export class HealthReports {
  readonly #reports = new Map<string, HealthReport>();
  readonly #changed: (entry: VmRecord) => void;

  /** @param changed called with each VM whose report has changed */
  constructor(changed: (entry: VmRecord) => void) {
    this.#changed = changed;
  }

  /**
   * Replaces the VM's report. Drops services that the VM does not have, because an agent may report any number of them, and no
   * limit of the registry counts them.
   */
  put(entry: VmRecord, report: HealthReport): void {
    const before = this.#reports.get(entry.id);
    const known = knownOf(entry, report);
    if (known) this.#reports.set(entry.id, known);
    else this.#reports.delete(entry.id);
    if (JSON.stringify(known) !== JSON.stringify(before)) this.#changed(entry);
  }

  /** Drops services from the VM's report that the VM no longer has. */
  trim(entry: VmRecord): void {
    const report = this.#reports.get(entry.id);
    if (report) this.put(entry, report);
  }

  forget(id: string): void {
    this.#reports.delete(id);
  }

  /** The health of the services that the VM has now; undefined if none of them is probed. */
  of(entry: VmRecord): HealthReport | undefined {
    const report = this.#reports.get(entry.id);
    return report && knownOf(entry, report);
  }

  /** The VMs with a service: passing first, failing last, otherwise in the given order. */
  offering(entries: readonly VmRecord[], service: string, passingOnly: boolean): VmRecord[] {
    // One pass without sorting, because many long polls may evaluate this for many VMs.
    const ranks: [VmRecord[], VmRecord[], VmRecord[]] = [[], [], []];
    for (const entry of entries) {
      if (!entry.services.includes(service)) continue;
      const report = this.#reports.get(entry.id);
      const health = (report && Object.hasOwn(report, service) ? report[service] : undefined) ?? 'unknown';
      ranks[RANK[health]].push(entry);
    }
    const [passing, unknown, failing] = ranks;
    return passingOnly ? passing : [...passing, ...unknown, ...failing];
  }
}

/** The part of a report about services that the VM has; undefined if there is none. */
function knownOf({ services }: VmRecord, report: HealthReport): HealthReport | undefined {
  const known = services.flatMap((name): [string, ServiceHealth][] => {
    const health = Object.hasOwn(report, name) ? report[name] : undefined;
    return health ? [[name, health]] : [];
  });
  return known.length > 0 ? Object.fromEntries(known) : undefined;
}
