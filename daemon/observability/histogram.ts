/** A histogram with fixed buckets. An observation increments a number in an array, so that it costs nothing on hot paths. */

/** Upper bounds of durations in seconds, from a heartbeat to a backup. */
const DURATION_BOUNDS: readonly number[] = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
];

export class Histogram {
  readonly bounds: readonly number[];
  /** Number of observations by bucket. The last bucket has no upper bound. */
  readonly counts: Float64Array;
  sum = 0;

  /** @param bounds ascending upper bounds, each part of its bucket */
  constructor(bounds: readonly number[] = DURATION_BOUNDS) {
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds } = this;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]!) bucket++;
    this.counts[bucket]!++;
    this.sum += value;
  }
}
