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
  /** Listening time at which the last gap ended, in which nobody could be heard; undefined when there was none. */
  gapEndedAt(): number | undefined;
}

/** The longest that a timer of Node's can wait, in milliseconds: beyond it `setTimeout` fires at once. */
export const MAX_TIMEOUT = 2 ** 31 - 1;

/** Milliseconds between two ticks of the listening clock. */
export const TICK_INTERVAL = 250;

/**
 * Most that one step between ticks may count, in milliseconds. A process that was away for longer could not hear, so the
 * rest of the gap is forgiven. Four ticks: a busy machine delays a timer by that much without having been away.
 */
export const MAX_STEP = 4 * TICK_INTERVAL;

export class ListeningClock implements Clock {
  #listened: number;
  #last: number;
  #lastWall: number;
  #gapEndedAt: number | undefined;
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
    this.#lastWall = wall();
    // The time between two runs is a gap like any other.
    if (listened > 0) this.#gapEndedAt = listened;
  }

  now(): number {
    return this.#wall();
  }

  listening(): number {
    const now = this.#monotonic();
    return this.#listened + Math.min(Math.max(now - this.#last, 0), MAX_STEP);
  }

  gapEndedAt(): number | undefined {
    // Who asks before the late tick must hear of the gap all the same.
    if (this.#monotonic() - this.#last > MAX_STEP) this.tick();
    return this.#gapEndedAt;
  }

  /** Takes one step; called at least every {@link MAX_STEP} while the process can hear. */
  tick(): void {
    const step = this.#monotonic() - this.#last;
    // A monotonic clock may stand still while a VM is suspended: then only the wall clock tells of it, when it is set
    // right after the resume. Somebody who sets it by hand looks the same, and costs a warning.
    const jump = Math.abs(this.#wall() - this.#lastWall - step);
    this.#listened = this.listening();
    this.#startStep();
    if (step > MAX_STEP || jump > MAX_STEP) this.#gapEndedAt = this.#listened;
  }

  #startStep(): void {
    this.#last = this.#monotonic();
    this.#lastWall = this.#wall();
  }

  start(): void {
    this.#startStep();
    this.#timer = setInterval(() => this.tick(), TICK_INTERVAL);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
