/** Measures by how much the event loop delays timers, and how busy it is. */
import { type IntervalHistogram, monitorEventLoopDelay, performance } from 'node:perf_hooks';

/** Milliseconds between two measurements: a longer block is seen, and one measurement takes microseconds. */
const RESOLUTION = 10;
/** Milliseconds of a window: the default interval of Prometheus, so that no scraper misses a delay. */
const WINDOW = 60_000;
const NANOSECONDS = 1e9;
const MILLISECONDS = 1000;

export class EventLoopMonitor {
  #current = startMeasuring();
  /** The last complete window. */
  #previous: IntervalHistogram | undefined;
  readonly #timer = setInterval(() => this.#rotate(), WINDOW).unref();

  /** Seconds for which the event loop was busy since the start of the process. */
  get busySeconds(): number {
    return performance.eventLoopUtilization().active / MILLISECONDS;
  }

  /** Delays of timers in this minute or in the one before, whichever are longer, in seconds; 0 if none was measured. */
  get delays(): { p50: number; p99: number; max: number } {
    return {
      p50: this.#longest((window) => window.percentile(50)),
      p99: this.#longest((window) => window.percentile(99)),
      max: this.#longest(({ max }) => max),
    };
  }

  #longest(nanosecondsOf: (window: IntervalHistogram) => number): number {
    const windows = [this.#previous, this.#current].filter((window) => window !== undefined && window.count > 0);
    const intervals = windows.map((window) => nanosecondsOf(window!) / NANOSECONDS);
    return Math.max(0, ...intervals.map((interval) => interval - RESOLUTION / MILLISECONDS));
  }

  #rotate(): void {
    this.#current.disable();
    this.#previous = this.#current;
    this.#current = startMeasuring();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#current.disable();
  }
}

function startMeasuring(): IntervalHistogram {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION });
  histogram.enable();
  return histogram;
}
