/** Milliseconds of the first pause: without one, there were 1400 attempts per second. */
const FIRST_PAUSE = 50;

/**
 * The pause between two attempts, which differs between clients so that they do not try at the same time.
 * @param doublings times that the first pause is doubled, up to `maximum` milliseconds
 * @param random between 0 and 1
 * @returns milliseconds
 */
export function backoff(doublings: number, maximum: number, random: () => number): number {
  return Math.min(maximum, FIRST_PAUSE * 2 ** doublings) * (0.5 + random() / 2);
}
