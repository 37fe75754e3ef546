/** The registry's own VM: the real registry over a store in memory, which can be stopped, killed and put back. */
import { type Clock, ListeningClock, TICK_INTERVAL } from '../../daemon/clock.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import type { VirtualTime } from './time.ts';

/** Milliseconds between two saves of beats, as the daemon has it. */
const SAVE_EVERY = 500;

export type MakeClock = (listened: number, wall: () => number) => Clock;

export class RegistryVm {
  readonly lease: number;
  registry!: Registry;
  /** When it was last started, and when from an older copy; virtual milliseconds. */
  startedAt = 0;
  putBackAt = Number.NEGATIVE_INFINITY;
  /** When it last began to answer again. */
  answersSince = 0;
  /** Time in which it answered, in milliseconds. */
  upTime = 0;
  onStale: (id: string) => void = () => {};
  readonly #time: VirtualTime;
  readonly #makeClock: MakeClock | undefined;
  #store = new MemoryStore();
  #clock!: Clock;
  #isUp = true;
  /** While it is stopped its clocks go on, but nothing of it runs. */
  #isStopped = false;
  #wallStep = 0;
  #lastTick = 0;

  /** @param makeClock another clock than the real one: to see whether the meter notices */
  constructor(time: VirtualTime, lease: number, makeClock?: MakeClock) {
    this.#time = time;
    this.lease = lease;
    this.#makeClock = makeClock;
    this.#start();
    time.every(TICK_INTERVAL, () => this.#tick());
    time.every(SAVE_EVERY, () => {
      if (this.answers) void this.registry.saveHeartbeats();
    });
  }

  get answers(): boolean {
    return this.#isUp && !this.#isStopped;
  }

  stop(): void {
    this.#isStopped = true;
  }

  goOn(): void {
    this.#isStopped = false;
    this.#becomesReachable();
  }

  stepWall(ms: number): void {
    this.#wallStep += ms;
  }

  /** What its disk holds now, for {@link restart}. */
  copy(): MemoryStore {
    const { vms, records, journal, revision, listened } = this.#store;
    const copy = new MemoryStore();
    for (const [id, vm] of vms) copy.vms.set(id, { ...vm });
    for (const [key, record] of records) copy.records.set(key, { ...record });
    copy.journal.push(...journal);
    copy.revision = revision;
    copy.listened = listened;
    return copy;
  }

  /** Ends it where it is. What was not saved is lost. */
  kill(): void {
    this.#isUp = false;
    this.#store = this.copy();
  }

  /** Starts it, from its own disk or from an older copy. */
  restart(copy?: MemoryStore): void {
    if (copy) {
      this.#store = copy;
      this.putBackAt = this.#time.now;
    }
    this.#isUp = true;
    this.#isStopped = false;
    this.#start();
    this.#becomesReachable();
  }

  #start(): void {
    const wall = () => Date.parse('2026-01-01T00:00:00.000Z') + this.#time.now + this.#wallStep;
    const contents = this.#store.contents();
    this.#clock =
      this.#makeClock?.(contents.listened, wall) ?? new ListeningClock(contents.listened, () => this.#time.now, wall);
    this.registry = new Registry(
      { store: this.#store, clock: this.#clock, staleAfter: this.lease, massLoss: 0.5 },
      contents,
    );
    this.startedAt = this.#time.now;
    this.registry.events.subscribe({
      event: ({ type, id }) => {
        if (type === 'stale') this.onStale(id);
      },
      heartbeat: () => {},
    });
  }

  #becomesReachable(): void {
    this.answersSince = this.#time.now;
    this.#lastTick = this.#time.now;
  }

  #tick(): void {
    if (!this.answers) return;
    this.upTime += this.#time.now - this.#lastTick;
    this.#lastTick = this.#time.now;
    if (this.#clock instanceof ListeningClock) this.#clock.tick();
    this.registry.sweep();
  }
}
