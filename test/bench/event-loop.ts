/** How long requests wait because the event loop of a server is blocked. */

/** Blocks of an event loop during some time, in milliseconds. */
export interface Blocks {
  time: number;
  blocks: readonly number[];
}

/**
 * The wait that only a share of requests exceeds, if they arrive at random moments. A request that arrives during a block of 100 ms
 * waits between 0 and 100 ms for its end, and a request between two blocks does not wait. So a block of 100 ms is as important as a
 * hundred blocks of 1 ms, while `monitorEventLoopDelay` counts it as one sample.
 * @param share between 0 and 1, such as 0.01 for the 99th percentile
 * @returns milliseconds
 */
export function waitExceededBy(share: number, { time, blocks }: Blocks): number {
  // Requests wait longer than `wait` if they arrive while more than that is left of a block: sum(block - wait) milliseconds.
  const target = share * time;
  let sum = 0;
  for (const [index, block] of blocks.toSorted((a, b) => b - a).entries()) {
    // Shorter blocks than `wait` do not count.
    if (sum - index * block > target) return (sum - target) / index;
    sum += block;
  }
  return Math.max(0, (sum - target) / Math.max(1, blocks.length));
}
