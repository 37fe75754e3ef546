/**
 * Clocks. Leases are measured in *listening time*: time during which this process could receive heartbeats. Listening time
 * stops while the process is down, stopped (SIGSTOP) or suspended with its VM, and does not change when the wall clock is set.
 */
export interface Clock {
  /** Wall clock in milliseconds since the epoch. For times that people read, never for leases. */
  now(): number;
  /** Listening time in milliseconds since the first start of this registry. Never decreases. */
  listening(): number;
  /** Listening time at a time of the wall clock. A future time counts as now. @param wall milliseconds since the epoch */
  listeningAt(wall: number): number;
  /** Stops the listening time, because heartbeats that other replicas receive do not arrive. */
  suspend(): void;
  /** Ends {@link suspend}. */
  resume(): void;
  /** The last gap, the same object until the next one; undefined if there was none. */
  lastGap(): Gap | undefined;
}

/** A time in which no heartbeat could be received. It takes no listening time. */
export interface Gap {
  /** Listening time at which it ended, or a moment before. */
  readonly endedAt: number;
  /** A later sign of life was certainly sent after the gap. */
  readonly certainFrom: number;
}

/** A time in which no heartbeat could be received, on the wall clock in milliseconds since the epoch. */
export interface Silence {
  readonly from: number;
  readonly to: number;
}

/** Maximum number of silences to remember. A heartbeat before an older one counts as older than it is by its length. */
const MAX_SILENCES = 1000;

/**
 * Milliseconds after a pause in which a request that is read may have waited in the kernel since before the pause: a busy
 * machine reads its sockets within that time.
 */
export const QUEUE_TIME = 500;

/** Milliseconds between two ticks of the listening clock. */
export const TICK_INTERVAL = 250;

/**
 * Maximum number of milliseconds that one tick adds to the listening time; the rest counts as a gap. Four intervals, because a
 * busy machine can delay a timer by that much.
 */
export const MAX_STEP = 4 * TICK_INTERVAL;

export class ListeningClock implements Clock {
  #listened: number;
  #last: number;
  #lastWall: number;
  #gap: Gap | undefined;
  /** Oldest first. */
  readonly #silences: Silence[];
  /** Wall clock at {@link suspend}. */
  #suspendedAt: number | undefined;
  readonly #monotonic: () => number;
  readonly #wall: () => number;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param listened listening time of earlier runs in milliseconds, from the store
   * @param monotonic a clock in milliseconds that is independent of the wall clock
   * @param silences of earlier runs, oldest first
   */
  constructor(
    listened: number,
    monotonic: () => number = () => performance.now(),
    wall: () => number = Date.now,
    silences: readonly Silence[] = [],
  ) {
    this.#silences = [...silences];
    this.#listened = listened;
    this.#monotonic = monotonic;
    this.#wall = wall;
    this.#last = monotonic();
    this.#lastWall = wall();
    // The time between two runs counts as a gap. No request waits through it, because it closes all sockets.
    if (listened > 0) this.#gap = { endedAt: listened, certainFrom: listened };
  }

  now(): number {
    return this.#wall();
  }

  listening(): number {
    if (this.#suspendedAt !== undefined) return this.#listened;
    const now = this.#monotonic();
    return this.#listened + Math.min(Math.max(now - this.#last, 0), MAX_STEP);
  }

  listeningAt(wall: number): number {
    const now = this.#wall();
    let time = this.listening() - Math.max(0, now - wall);
    for (const { from, to } of this.#silences) time += Math.max(0, Math.min(to, now) - Math.max(from, wall));
    if (this.#suspendedAt !== undefined) time += Math.max(0, now - Math.max(this.#suspendedAt, wall));
    return Math.min(time, this.listening());
  }

  suspend(): void {
    if (this.#suspendedAt !== undefined) return;
    this.tick();
    this.#suspendedAt = this.#wall();
  }

  resume(): void {
    if (this.#suspendedAt === undefined) return;
    this.#addSilence(this.#suspendedAt, this.#wall());
    this.#suspendedAt = undefined;
    this.#startStep();
    this.#gap = { endedAt: this.#listened, certainFrom: this.#listened };
  }

  #addSilence(from: number, to: number): void {
    if (to <= from) return;
    this.#silences.push({ from, to });
    if (this.#silences.length > MAX_SILENCES) this.#silences.shift();
  }

  lastGap(): Gap | undefined {
    // A request may be handled before the delayed tick that would record the gap.
    if (this.#suspendedAt === undefined && this.#monotonic() - this.#last > MAX_STEP) this.tick();
    return this.#gap;
  }

  /** Advances the listening time. Called at least every {@link MAX_STEP} while the process can receive heartbeats. */
  tick(): void {
    if (this.#suspendedAt !== undefined) return;
    const step = this.#monotonic() - this.#last;
    // The monotonic clock may stop while a VM is suspended; then only the wall clock shows the gap, if it is set after the VM
    // is resumed. An operator who sets the clock causes the same jump, but its only effect is a warming period.
    const jump = Math.abs(this.#wall() - this.#lastWall - step);
    const before = this.#listened;
    this.#listened = this.listening();
    this.#startStep();
    if (step <= MAX_STEP && jump <= MAX_STEP) return;
    // A suspend that only the wall clock shows may have ended at any time of the step.
    const endedAt = step > MAX_STEP ? this.#listened : before;
    this.#addSilence(this.#lastWall - Math.max(step, jump) + MAX_STEP, this.#lastWall);
    this.#gap = { endedAt, certainFrom: this.#listened + QUEUE_TIME };
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

/** Milliseconds between two checks of {@link watchTimeJumps}. */
const JUMP_CHECK_INTERVAL = 1000;
/** Milliseconds by which a check may be late, or the two clocks may differ, without a jump. */
const JUMP_TOLERANCE = 3000;

/**
 * Calls `onJump` when time has jumped: the process was stopped, the VM was suspended, or the clock was set. The registry may
 * have marked this VM stale in the meantime.
 * @param onJump receives the length of the jump in milliseconds of the wall clock
 * @returns a function that stops watching
 */
export function watchTimeJumps(onJump: (ms: number) => void): () => void {
  let lastMonotonic = performance.now();
  let lastWall = Date.now();
  const timer = setInterval(() => {
    const monotonic = performance.now() - lastMonotonic;
    const wall = Date.now() - lastWall;
    lastMonotonic += monotonic;
    lastWall += wall;
    // The monotonic clock may stop while a VM is suspended; then only the wall clock shows the jump.
    if (monotonic - JUMP_CHECK_INTERVAL > JUMP_TOLERANCE || Math.abs(wall - monotonic) > JUMP_TOLERANCE)
      onJump(Math.round(wall));
  }, JUMP_CHECK_INTERVAL);
  timer.unref();
  return () => clearInterval(timer);
}
