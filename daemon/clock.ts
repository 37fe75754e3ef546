/**
 * Time as the registry sees it. Leases count *listening time*: time during which this process could hear a heartbeat.
 * It stands still while the process is down, stopped (SIGSTOP) or suspended with its VM, and does not move when somebody
 * sets the wall clock.
 */
export interface Clock {
  /** Wall clock, milliseconds since the epoch: for times that people read, never for leases. */
  now(): number;
  /** Listening time in milliseconds since this registry was first started. Never goes back. */
  listening(): number;
}

/** Milliseconds between two ticks of the listening clock. */
export const TICK = 250;

/**
 * Most that one step between ticks may count, in milliseconds. A process that was away for longer could not hear, so the
 * rest of the gap is forgiven. Four ticks: a busy machine delays a timer by that much without having been away.
 */
export const MAX_STEP = 4 * TICK;

export class ListeningClock implements Clock {
  #listened: number;
  #last: number;
  readonly #monotonic: () => number;
  readonly #wall: () => number;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param listened listening time of earlier runs, from the store, in milliseconds
   * @param monotonic a clock that wall-clock steps don't move, in milliseconds
   */
  constructor(listened: number, monotonic: () => number = () => performance.now(), wall: () => number = Date.now) {
    this.#listened = listened;
    this.#monotonic = monotonic;
    this.#wall = wall;
    this.#last = monotonic();
  }

  now(): number {
    return this.#wall();
  }

  listening(): number {
    const now = this.#monotonic();
    return this.#listened + Math.min(Math.max(now - this.#last, 0), MAX_STEP);
  }

  /** Takes one step; called at least every {@link MAX_STEP} while the process can hear. */
  tick(): void {
    this.#listened = this.listening();
    this.#last = this.#monotonic();
  }

  start(): void {
    this.#last = this.#monotonic();
    this.#timer = setInterval(() => this.tick(), TICK);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
