/** A fleet's life, chosen by a seed: what happens to it, and what the registry got wrong. */
import type { MemoryStore } from '../helpers/memory-store.ts';
import { type MakeClock, RegistryVm } from './registry-vm.ts';
import { seeded, VirtualTime } from './time.ts';
import { SimVm, type World } from './vm.ts';

export interface FleetOptions {
  seed: number;
  /** VMs at the start. */
  vms: number;
  /** Milliseconds of virtual time. */
  length: number;
  /** Milliseconds between two things that happen. */
  every: number;
  /** What may happen; everything when nothing is said. */
  happenings?: readonly Happening[];
  /** Milliseconds. */
  lease?: number;
  proves?: boolean;
  /** Other than the real ones, to see whether the meter notices. */
  makeClock?: MakeClock;
  pause?: (ms: number) => number;
}

export interface Report {
  seed: number;
  vms: number;
  /** Things that happened, by name. */
  happened: Record<string, number>;
  beats: number;
  /** VMs that were stale, or not offered, though their agents lived and could reach the registry. */
  falseDeaths: number;
  clones: number;
  /** Of them, those that nobody noticed within four beats. */
  undetectedClones: number;
  /** Dead VMs that were offered for longer than a lease of listening time, or two in a mass loss. */
  ghosts: number;
  /**
   * Most beats in 100 ms against their mean, in the time in which nothing had happened for two intervals but mass
   * restarts. The first contact of each agent is left out: it is at once by design, since somebody may be waiting for it.
   */
  burst: number;
}

/** Milliseconds of one bucket of beats. */
const BUCKET = 100;
/** Milliseconds between two looks at what is offered. */
const LOOK_EVERY = 1000;
/** Milliseconds by which a look, a beat's retries and a tick may be late together. */
const SLACK = 8000;
const DAY = 86_400_000;

const HAPPENINGS = {
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
    fleet.later(
      fleet.between(30_000, 60_000),
      () => vm.isAlive && fleet.replace(vm, vm.rewind(fleet.newName('rewound'), snapshot)),
    );
  },
  restartAgent: (fleet) => {
    const vm = fleet.pick();
    if (vm && !vm.isPaused) fleet.replace(vm, vm.restart());
  },
  setClock: (fleet) => fleet.pick()?.jump(),
  partition: (fleet) => {
    // Fewer than half: what more of them do is a mass loss.
    const cut = fleet.living().filter(() => fleet.random() < 0.2);
    for (const vm of cut) vm.isReachable = false;
    fleet.later(fleet.between(5000, 60_000), () => {
      for (const vm of cut) {
        vm.isReachable = true;
        vm.disturbedAt = fleet.time.now;
      }
    });
  },
  stopRegistry: (fleet) => {
    fleet.registryVm.stop();
    fleet.busy(fleet.between(2000, 120_000), () => fleet.registryVm.goOn());
  },
  setRegistryClock: (fleet) => fleet.registryVm.stepWall((fleet.random() < 0.5 ? -3 : 3) * DAY),
  killRegistry: (fleet) => {
    fleet.registryVm.kill();
    fleet.busy(fleet.between(500, 120_000), () => fleet.registryVm.restart());
  },
  rollBackRegistry: (fleet) => {
    const copy: MemoryStore = fleet.registryVm.copy();
    fleet.busy(fleet.between(10_000, 60_000), () => {
      fleet.registryVm.kill();
      fleet.registryVm.restart(copy);
    });
  },
  massRestart: (fleet) => {
    for (const vm of fleet.living()) if (!vm.isPaused) fleet.replace(vm, vm.restart());
  },
  scaleIn: (fleet) => {
    for (const vm of fleet.living().slice(Math.floor(fleet.living().length / 4))) vm.die();
    for (let n = 0; n < fleet.size / 2; n++) fleet.boot();
  },
} satisfies Record<string, (fleet: Fleet) => void>;

export type Happening = keyof typeof HAPPENINGS;
const ALL = Object.keys(HAPPENINGS) as Happening[];

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
  readonly #buckets = new Map<number, number>();
  #vms: SimVm[] = [];
  readonly #pairs: { original: SimVm; twin: SimVm; since: number }[] = [];
  /** Registry time at which each id lost its last VM. */
  readonly #deaths = new Map<string, number>();
  readonly #counted = new Set<string>();
  #registryIsBusy = false;
  #names = 0;
  /** Buckets in which bursts are measured, those without a beat included. */
  #calmBuckets = 0;
  #quietSince = 0;

  constructor({ seed, vms, lease = 30_000, proves = true, makeClock, pause }: FleetOptions) {
    this.random = seeded(seed);
    this.#lease = lease;
    this.interval = lease / 3;
    this.proves = proves;
    this.pause = pause;
    this.size = vms;
    this.registryVm = new RegistryVm(this.time, lease, makeClock);
    this.report = {
      seed,
      vms,
      happened: {},
      beats: 0,
      falseDeaths: 0,
      clones: 0,
      undetectedClones: 0,
      ghosts: 0,
      burst: 0,
    };
    for (let n = 0; n < vms; n++) this.boot();
    this.time.every(LOOK_EVERY, () => this.#look());
  }

  onBeat(vm: SimVm): void {
    this.report.beats++;
    if (vm.isFirstContact) vm.isFirstContact = false;
    else if (this.#isCalm) {
      const bucket = Math.floor(this.time.now / BUCKET);
      this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + 1);
    }
  }

  get #isCalm(): boolean {
    return this.time.now - this.#quietSince > 2 * this.interval;
  }

  happen(name: Happening): void {
    const changesRegistry = /Registry$/.test(name);
    if (changesRegistry && this.#registryIsBusy) return;
    this.report.happened[name] = (this.report.happened[name] ?? 0) + 1;
    // What follows a mass restart is what its bursts are measured in.
    if (name !== 'massRestart') this.#quietSince = this.time.now;
    HAPPENINGS[name](this);
  }

  /** The registry is away, or about to be put back, for so long. */
  busy(ms: number, then: () => void): void {
    this.#registryIsBusy = true;
    this.later(ms, () => {
      then();
      this.#quietSince = this.time.now;
      this.#registryIsBusy = false;
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
    const counts = [...this.#buckets.values()];
    const mean = counts.reduce((sum, count) => sum + count, 0) / Math.max(1, this.#calmBuckets);
    this.report.burst = counts.length === 0 ? 0 : Number((Math.max(...counts) / mean).toFixed(2));
  }

  #look(): void {
    if (this.#isCalm) this.#calmBuckets += LOOK_EVERY / BUCKET;
    this.#vms = this.#vms.filter((vm) => vm.isAlive || this.time.now - vm.diedAt! < 10 * this.#lease);
    this.#lookForTwins();
    if (!this.registryVm.answers) return;
    const offered = new Set(this.registryVm.registry.discover('worker').map(({ vm }) => vm.id));
    this.#lookForFalseDeaths(offered);
    this.#lookForGhosts(offered);
  }

  #lookForFalseDeaths(offered: ReadonlySet<string>): void {
    // After each of them an agent needs its next beat, and a retry or two, to be heard.
    const enough = 2 * this.interval + SLACK;
    for (const vm of this.living()) {
      const calm = this.time.now - Math.max(vm.disturbedAt, this.registryVm.answersSince, this.registryVm.startedAt);
      if (vm.isPaused || !vm.isReachable || calm < enough || offered.has(vm.id)) continue;
      this.#count(`dead ${vm.id}`, () => this.report.falseDeaths++);
    }
  }

  #lookForGhosts(offered: ReadonlySet<string>): void {
    const { upTime, putBackAt, registry } = this.registryVm;
    const living = new Set(this.living().map(({ id }) => id));
    for (const id of offered) {
      if (living.has(id)) this.#deaths.delete(id);
      else if (!this.#deaths.has(id)) this.#deaths.set(id, upTime);
      const since = this.#deaths.get(id);
      if (since === undefined) continue;
      // To an older copy of the registry it died when that was put back, at the latest.
      if (this.time.now - putBackAt <= LOOK_EVERY) this.#deaths.set(id, upTime);
      const most = this.#lease * (registry.get(id).isSuspect ? 2 : 1) + SLACK;
      if (upTime - this.#deaths.get(id)! > most) this.#count(`ghost ${id}`, () => this.report.ghosts++);
    }
  }

  #lookForTwins(): void {
    for (const { original, twin, since } of this.#pairs) {
      if (original.metItsTwin || twin.metItsTwin) continue;
      const calm = [original, twin].every((vm) => vm.isAlive && !vm.isPaused && vm.isReachable);
      const from = Math.max(since, original.disturbedAt, twin.disturbedAt, this.registryVm.answersSince);
      if (!calm || !this.registryVm.answers || this.time.now - from < 4 * this.interval + SLACK) continue;
      this.#count(`twin ${twin.name}`, () => this.report.undetectedClones++);
    }
  }

  #count(what: string, count: () => void): void {
    if (this.#counted.has(what)) return;
    this.#counted.add(what);
    count();
  }
}

/** Lives one life. The same options give the same report. */
export async function simulate(options: FleetOptions): Promise<Report> {
  const { length, every, happenings = ALL } = options;
  const fleet = new Fleet(options);
  await fleet.time.until(2 * fleet.interval);
  for (let at = fleet.time.now + every; at < length; at += every) {
    await fleet.time.until(at);
    const name = happenings[Math.floor(fleet.random() * happenings.length)];
    if (name) fleet.happen(name);
  }
  await fleet.time.until(length);
  fleet.measureBurst();
  return fleet.report;
}
