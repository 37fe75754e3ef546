/** Simulates a fleet: a seed selects the incidents, and the report counts what the registry got wrong. */
import { type MakeClock, RegistryVm } from './registry-vm.ts';
import { seeded, VirtualTime } from './time.ts';
import { SimVm, type World } from './vm.ts';

export interface FleetOptions {
  seed: number;
  /** VMs at the start. */
  vms: number;
  /** Milliseconds of virtual time. */
  length: number;
  /** Milliseconds between two incidents. */
  every: number;
  /** Incidents to choose from. Default: all. */
  incidents?: readonly Incident[];
  /** Milliseconds. */
  lease?: number;
  /** Whether agents prove their identity. */
  proves?: boolean;
  /** Faulty replacements of the real clock and the real pauses, to test the report. */
  makeClock?: MakeClock;
  pause?: (ms: number) => number;
}

export interface Report {
  seed: number;
  vms: number;
  /** Number of incidents by name. */
  incidentCounts: Record<string, number>;
  /** Requests that arrived at the registry's VM, also while it did not answer. */
  requests: number;
  /** VMs that were not discovered although their agents were alive and could reach the registry. */
  falseDeaths: number;
  clones: number;
  /** Clones that no agent was told about within four heartbeat intervals. */
  undetectedClones: number;
  /** Dead VMs that were discovered for longer than one lease of listening time, or two after a mass loss. */
  ghosts: number;
  /**
   * Peak of the requests in 100 ms, divided by their mean, in the two intervals after an incident, after the end of a fault, and
   * during a fault. The requests after all incidents, and after all with the same name, are added up: the mean of 200 VMs is two
   * requests in 100 ms, and chance alone makes peaks of five times as many. Retries count; first contacts do not.
   */
  burst: number;
  /** The incident with the highest {@link burst}. */
  burstAfter: string;
  firstContacts: number;
  /**
   * As {@link burst}, for the first contacts of agents, with their retries. It is high after mass restarts: a first contact is immediate by design,
   * because a client may wait for it.
   */
  firstContactBurst: number;
}

/** Milliseconds per bucket of heartbeats. */
const BUCKET = 100;
/** Milliseconds between two inspections of the discovered VMs. */
const INSPECT_INTERVAL = 1000;
/** Milliseconds by which an inspection, the retries of a heartbeat and a tick may be late together. */
const SLACK = 8000;
const DAY = 86_400_000;

/** Expected requests in a bucket that is measured: chance makes peaks of twice as many, and hardly ever of three times. */
const MIN_EXPECTED = 16;
/** Name of the profile of all incidents together. */
const ANY = 'any incident';

/** Requests after all incidents with the same name, by the time since the incident. */
class Profile {
  readonly #counts: number[];
  /** How often each bucket was measured. */
  readonly #measured: number[];

  /** @param length milliseconds after an incident */
  constructor(length: number) {
    this.#counts = new Array<number>(Math.ceil(length / BUCKET)).fill(0);
    this.#measured = this.#counts.map(() => 0);
  }

  /** @param since milliseconds since the incident */
  add(since: number): void {
    const bucket = Math.floor(since / BUCKET);
    if (bucket < this.#counts.length) this.#counts[bucket]!++;
  }

  /** @param length milliseconds from an incident to the next one */
  end(length: number): void {
    const buckets = Math.min(this.#counts.length, Math.floor(length / BUCKET));
    for (let bucket = 0; bucket < buckets; bucket++) this.#measured[bucket]!++;
  }

  get burst(): number {
    const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);
    const mean = sum(this.#counts) / Math.max(1, sum(this.#measured));
    const ratios = this.#counts.map((count, bucket) => {
      const expected = mean * this.#measured[bucket]!;
      return expected < MIN_EXPECTED ? 0 : count / expected;
    });
    return Number(Math.max(...ratios).toFixed(2));
  }
}

const INCIDENTS = {
  pause: (fleet) => {
    const vm = fleet.pick();
    if (!vm || vm.isPaused) return;
    vm.pause();
    fleet.later(fleet.between(5000, 120_000), () => vm.isAlive && vm.resume());
  },
  kill: (fleet) => fleet.pick()?.die(),
  boot: (fleet) => fleet.boot(),
  clone: (fleet) => fleet.clone(),
  rewind: (fleet) => {
    const vm = fleet.pick();
    if (!vm || vm.isPaused) return;
    const snapshot = vm.snapshot();
    fleet.later(fleet.between(30_000, 60_000), () => {
      if (!vm.isAlive) return;
      const rewound = vm.rewind(fleet.newName('rewound'), snapshot);
      rewound.disturbedAt += fleet.registryVm.lease;
      fleet.replace(vm, rewound);
    });
  },
  restartAgent: (fleet) => {
    const vm = fleet.pick();
    if (vm && !vm.isPaused) fleet.replace(vm, vm.restart());
  },
  setClock: (fleet) => fleet.pick()?.jump(),
  partition: (fleet) => {
    // Fewer than half, because more would be a mass loss.
    const cut = fleet.living().filter(() => fleet.random() < 0.2);
    for (const vm of cut) vm.isReachable = false;
    fleet.later(fleet.between(5000, 60_000), () => {
      fleet.mark('partition healed');
      for (const vm of cut) {
        vm.isReachable = true;
        vm.disturbedAt = fleet.time.now;
      }
    });
  },
  stopRegistry: (fleet) => {
    fleet.registryVm.stop();
    fleet.changeRegistry(fleet.between(2000, 120_000), () => fleet.registryVm.resume());
  },
  setRegistryClock: (fleet) => fleet.registryVm.stepWallClock((fleet.random() < 0.5 ? -3 : 3) * DAY),
  killRegistry: (fleet) => {
    fleet.registryVm.kill();
    fleet.changeRegistry(fleet.between(500, 120_000), () => fleet.registryVm.restart());
  },
  restoreRegistry: (fleet) => {
    const copy = { store: fleet.registryVm.copy(), at: fleet.time.now };
    fleet.changeRegistry(fleet.between(10_000, 60_000), () => {
      fleet.registryVm.kill();
      fleet.registryVm.restart(copy);
    });
  },
  copyRegistry: (fleet) => {
    fleet.registryVm.startTwin();
    fleet.changeRegistry(fleet.between(10_000, 60_000), () => fleet.registryVm.endTwin());
  },
  remove: (fleet) => {
    const vm = fleet.pick();
    if (!vm || !fleet.registryVm.answers) return;
    vm.disturbedAt = fleet.time.now;
    void fleet.registryVm.registry.deregister(vm.id).catch(() => {});
  },
  recreate: (fleet) => {
    const vm = fleet.pick();
    if (!vm || vm.isPaused) return;
    vm.die();
    fleet.later(fleet.between(1000, 20_000), () => fleet.replace(vm, SimVm.boot(fleet, vm.id)));
  },
  massRestart: (fleet) => {
    for (const vm of fleet.living()) if (!vm.isPaused) fleet.replace(vm, vm.restart());
  },
  scaleIn: (fleet) => {
    for (const vm of fleet.living().slice(Math.floor(fleet.living().length / 4))) vm.die();
    for (let n = 0; n < fleet.size / 2; n++) fleet.boot();
  },
} satisfies Record<string, (fleet: Fleet) => void>;

export type Incident = keyof typeof INCIDENTS;
const ALL = Object.keys(INCIDENTS) as Incident[];

class Fleet implements World {
  readonly time = new VirtualTime();
  readonly registryVm: RegistryVm;
  readonly random: () => number;
  readonly interval: number;
  readonly loss = 0.01;
  readonly proves: boolean;
  readonly pause: ((ms: number) => number) | undefined;
  readonly size: number;
  readonly report: Report;
  readonly #lease: number;
  readonly #profiles = new Map<string, Profile>();
  readonly #firstContacts: Profile;
  /** The last incident. */
  #last = { name: 'start', at: 0 };
  #vms: SimVm[] = [];
  readonly #pairs: { original: SimVm; twin: SimVm; since: number }[] = [];
  /** Registry time at which each id lost its last VM. */
  readonly #deaths = new Map<string, number>();
  readonly #counted = new Set<string>();
  #isRegistryChanging = false;
  #names = 0;

  constructor({ seed, vms, lease = 30_000, proves = true, makeClock, pause }: FleetOptions) {
    this.random = seeded(seed);
    this.#lease = lease;
    this.interval = lease / 3;
    this.#firstContacts = new Profile(2 * this.interval);
    this.#profiles.set(ANY, new Profile(2 * this.interval));
    this.proves = proves;
    this.pause = pause;
    this.size = vms;
    this.registryVm = new RegistryVm(this.time, lease, makeClock);
    this.report = {
      seed,
      vms,
      incidentCounts: {},
      requests: 0,
      falseDeaths: 0,
      clones: 0,
      undetectedClones: 0,
      ghosts: 0,
      burst: 0,
      burstAfter: '',
      firstContacts: 0,
      firstContactBurst: 0,
    };
    for (let n = 0; n < vms; n++) this.boot();
    this.time.every(INSPECT_INTERVAL, () => this.#inspect());
  }

  onRequest(vm: SimVm): void {
    this.report.requests++;
    const since = this.time.now - this.#last.at;
    if (vm.isFirstContact) {
      this.report.firstContacts++;
      this.#firstContacts.add(since);
    } else for (const name of [this.#last.name, ANY]) this.#profiles.get(name)?.add(since);
  }

  /** Measures the burst of requests from now on under this name, until the next incident. */
  mark(name: string): void {
    const length = this.time.now - this.#last.at;
    for (const each of [this.#last.name, ANY]) this.#profiles.get(each)?.end(length);
    this.#firstContacts.end(length);
    if (!this.#profiles.has(name)) this.#profiles.set(name, new Profile(2 * this.interval));
    this.#last = { name, at: this.time.now };
  }

  cause(name: Incident): void {
    const changesRegistry = /Registry$/.test(name);
    if (changesRegistry && this.#isRegistryChanging) return;
    this.report.incidentCounts[name] = (this.report.incidentCounts[name] ?? 0) + 1;
    this.mark(name);
    INCIDENTS[name](this);
  }

  /** Prevents other incidents of the registry for this many milliseconds, then runs the second half of the incident. */
  changeRegistry(ms: number, then: () => void): void {
    const { name } = this.#last;
    this.#isRegistryChanging = true;
    this.later(ms, () => {
      this.mark(`${name} ended`);
      then();
      this.#isRegistryChanging = false;
    });
  }

  later(ms: number, run: () => void): void {
    this.time.after(ms, run);
  }

  between(low: number, high: number): number {
    return low + this.random() * (high - low);
  }

  newName(kind: string): string {
    return `${kind}-${++this.#names}`;
  }

  living(): SimVm[] {
    return this.#vms.filter(({ isAlive }) => isAlive);
  }

  pick(): SimVm | undefined {
    const living = this.living();
    return living[Math.floor(this.random() * living.length)];
  }

  boot(): void {
    this.#vms.push(SimVm.boot(this, this.newName('vm')));
  }

  clone(): void {
    const original = this.pick();
    if (!original || original.isPaused || !original.isReachable || this.time.now - original.disturbedAt < SLACK) return;
    const twin = original.clone(this.newName('clone'));
    this.#vms.push(twin);
    this.report.clones++;
    this.#pairs.push({ original, twin, since: this.time.now });
  }

  replace(before: SimVm, after: SimVm): void {
    this.#vms = this.#vms.map((vm) => (vm === before ? after : vm));
  }

  measureBurst(): void {
    this.mark('end');
    for (const [name, { burst }] of this.#profiles) {
      if (burst <= this.report.burst) continue;
      this.report.burst = burst;
      this.report.burstAfter = name;
    }
    this.report.firstContactBurst = this.#firstContacts.burst;
  }

  #inspect(): void {
    this.#vms = this.#vms.filter((vm) => vm.isAlive || this.time.now - vm.diedAt! < 10 * this.#lease);
    // With a twin, each registry hears half of the heartbeats. The others seem lost to it, so it cannot decide claims.
    if (!this.registryVm.answers || this.registryVm.hasTwin) return;
    this.#findUndetectedClones();
    const offered = new Set(this.registryVm.registry.discover('worker').map(({ vm }) => vm.id));
    this.#findFalseDeaths(offered);
    this.#findGhosts(offered);
  }

  #findFalseDeaths(offered: ReadonlySet<string>): void {
    // After a disturbance an agent needs its next heartbeat, and a retry or two, to reach the registry.
    for (const vm of this.living()) {
      const recovery = 2 * this.interval + SLACK + (this.#isContested(vm) ? this.#lease : 0);
      const calm = this.time.now - Math.max(vm.disturbedAt, this.registryVm.reachableSince, this.registryVm.startedAt);
      if (vm.isPaused || !vm.isReachable || calm < recovery || offered.has(vm.id)) continue;
      this.#count(`dead ${vm.id}`, () => this.report.falseDeaths++);
    }
  }

  /** Whether the registry may refuse a VM until another incarnation has been heard again or has been silent for a lease. */
  #isContested(vm: SimVm): boolean {
    const isOpen = this.#pairs.some(
      ({ original, twin }) =>
        (vm === original || vm === twin) && !original.isConflictNoticed && !twin.isConflictNoticed,
    );
    const { restoredAt, copiedAt } = this.registryVm;
    // The copy from which the registry was restored does not know this process, for example of a VM that was rewound since.
    const isForgotten = !vm.isFirstContact && vm.acceptedAt! < restoredAt && vm.firstAcceptedAt! > copiedAt;
    return vm.isFirstContact || isForgotten || isOpen;
  }

  #findGhosts(offered: ReadonlySet<string>): void {
    const { upTime, restoredAt, registry } = this.registryVm;
    const living = new Set(this.living().map(({ id }) => id));
    for (const id of offered) {
      if (living.has(id)) this.#deaths.delete(id);
      else if (!this.#deaths.has(id)) this.#deaths.set(id, upTime);
      const since = this.#deaths.get(id);
      if (since === undefined) continue;
      // A restored registry counts from the restore, even if the VM died earlier.
      if (this.time.now - restoredAt <= INSPECT_INTERVAL) this.#deaths.set(id, upTime);
      const limit = this.#lease * (registry.get(id).isSuspect ? 2 : 1) + SLACK;
      if (upTime - this.#deaths.get(id)! > limit) this.#count(`ghost ${id}`, () => this.report.ghosts++);
    }
  }

  #findUndetectedClones(): void {
    for (const { original, twin, since } of this.#pairs) {
      if (original.isConflictNoticed || twin.isConflictNoticed) continue;
      const calm = [original, twin].every((vm) => vm.isAlive && !vm.isPaused && vm.isReachable);
      const from = Math.max(since, original.disturbedAt, twin.disturbedAt, this.registryVm.reachableSince);
      if (!calm || this.time.now - from < 4 * this.interval + SLACK) continue;
      this.#count(`twin ${twin.name}`, () => this.report.undetectedClones++);
    }
  }

  #count(what: string, count: () => void): void {
    if (this.#counted.has(what)) return;
    this.#counted.add(what);
    count();
  }
}

/** Runs one simulation. The same options give the same report. */
export async function simulate(options: FleetOptions): Promise<Report> {
  const { length, every, incidents = ALL } = options;
  const fleet = new Fleet(options);
  await fleet.time.until(2 * fleet.interval);
  for (let at = fleet.time.now + every; at < length; at += every) {
    await fleet.time.until(at);
    const name = incidents[Math.floor(fleet.random() * incidents.length)];
    if (name) fleet.cause(name);
  }
  await fleet.time.until(length);
  fleet.measureBurst();
  return fleet.report;
}
