/** The registry's VM: the real registry over a store in memory, which can be stopped, killed and restored. */
import { type Clock, ListeningClock, TICK_INTERVAL } from '../../daemon/clock.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import type { VirtualTime } from './time.ts';

/** Milliseconds between two saves of heartbeats, as in the daemon. */
const SAVE_INTERVAL = 500;

export type MakeClock = (listened: number, wall: () => number) => Clock;

export class RegistryVm {
  readonly lease: number;
  registry!: Registry;
  /** Time of the last start, in virtual milliseconds. */
  startedAt = 0;
  /** Time of the last start from an older copy, in virtual milliseconds. */
  restoredAt = Number.NEGATIVE_INFINITY;
  /** Time of the copy of {@link restoredAt}, in virtual milliseconds. */
  copiedAt = Number.POSITIVE_INFINITY;
  /** Time since when it has answered, in virtual milliseconds. */
  reachableSince = 0;
  /** Total time during which it answered, in milliseconds. */
  upTime = 0;
  onStale: (id: string) => void = () => {};
  readonly #time: VirtualTime;
  readonly #makeClock: MakeClock | undefined;
  #store = new MemoryStore();
  #clock!: Clock;
  #isUp = true;
  /** While the process is stopped, its clocks continue but none of its code runs. */
  #isStopped = false;
  /** Requests that wait in the kernel of a stopped process. */
  #waiting: (() => void)[] = [];
  /** Another registry that was started with a copy of the disk and answers under the same URL. */
  #twin: Registry | undefined;
  #usesTwin = false;
  #wallStep = 0;
  #lastTick = 0;

  /** @param makeClock a faulty replacement of the real clock */
  constructor(time: VirtualTime, lease: number, makeClock?: MakeClock) {
    this.#time = time;
    this.lease = lease;
    this.#makeClock = makeClock;
    this.#start();
    time.every(TICK_INTERVAL, () => this.#tick());
    time.every(SAVE_INTERVAL, () => {
      if (this.answers) void this.registry.saveHeartbeats();
    });
  }

  get answers(): boolean {
    return this.#isUp && !this.#isStopped;
  }

  stop(): void {
    this.#isStopped = true;
  }

  resume(): void {
    this.#isStopped = false;
    this.#markReachable();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Resolves when a stopped process continues or is killed; undefined if it is not stopped. */
  continued(): Promise<void> | undefined {
    if (!this.#isUp || !this.#isStopped) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** The registry that answers the next request: with a twin, the two alternate. */
  next(): Registry {
    this.#usesTwin = !this.#usesTwin;
    return this.#twin && this.#usesTwin ? this.#twin : this.registry;
  }

  startTwin(): void {
    this.#twin = this.#open(this.copy(), this.#clock);
  }

  endTwin(): void {
    this.#twin = undefined;
    this.#markReachable();
  }

  get hasTwin(): boolean {
    return this.#twin !== undefined;
  }

  stepWallClock(ms: number): void {
    this.#wallStep += ms;
  }

  /** A copy of its disk, for {@link restart}. */
  copy(): MemoryStore {
    const { vms, records, journal, positions, listened } = this.#store;
    const copy = new MemoryStore();
    for (const [id, vm] of vms) copy.vms.set(id, { ...vm });
    for (const [key, record] of records) copy.records.set(key, { ...record });
    copy.journal.push(...journal);
    copy.positions.splice(0, copy.positions.length, ...positions);
    copy.listened = listened;
    return copy;
  }

  /** Kills the process. Unsaved heartbeats are lost. */
  kill(): void {
    this.#isUp = false;
    this.#store = this.copy();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Starts the process with its own disk or with an older copy. */
  restart(copy?: { store: MemoryStore; at: number }): void {
    if (copy) {
      this.#store = copy.store;
      this.copiedAt = copy.at;
      this.restoredAt = this.#time.now;
    }
    this.#isUp = true;
    this.#isStopped = false;
    this.#start();
    this.#markReachable();
  }

  #start(): void {
    const wall = () => Date.parse('2026-01-01T00:00:00.000Z') + this.#time.now + this.#wallStep;
    const contents = this.#store.contents();
    this.#clock =
      this.#makeClock?.(contents.listened, wall) ?? new ListeningClock(contents.listened, () => this.#time.now, wall);
    this.registry = this.#open(this.#store, this.#clock);
    this.startedAt = this.#time.now;
    this.registry.events.subscribe({
      event: ({ type, id }) => {
        if (type === 'stale') this.onStale(id);
      },
    });
  }

  #open(store: MemoryStore, clock: Clock): Registry {
    return new Registry({ store, clock, staleAfter: this.lease, massLoss: 0.5 }, store.contents());
  }

  #markReachable(): void {
    this.reachableSince = this.#time.now;
    this.#lastTick = this.#time.now;
  }

  #tick(): void {
    if (!this.answers) return;
    this.upTime += this.#time.now - this.#lastTick;
    this.#lastTick = this.#time.now;
    if (this.#clock instanceof ListeningClock) this.#clock.tick();
    this.registry.sweep();
    this.#twin?.sweep();
  }
}
