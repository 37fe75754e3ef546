const MINUTE = 60_000;
/** Minutes to remember: the last signs of life of most VMs lie within one lease, which is 5 minutes by default. */
const KNOWN_MINUTES = 8;
const minutes = new Float64Array(KNOWN_MINUTES).fill(Number.NaN);
const minuteTexts: string[] = new Array(KNOWN_MINUTES).fill('');
const SECONDS = Array.from({ length: 60 }, (_, n) => String(n).padStart(2, '0'));
const MILLISECONDS = Array.from({ length: 1000 }, (_, n) => `.${String(n).padStart(3, '0')}Z`);

/**
 * Formats a time as RFC 3339, as `toISOString`. That takes 0.8 µs, a twentieth of a request; with the cached text of the
 * minute, it takes 0.1 µs.
 * @param ms since the epoch
 */
export function isoTime(ms: number): string {
  const minute = Math.floor(ms / MINUTE);
  const at = minute & (KNOWN_MINUTES - 1);
  if (minutes[at] !== minute) {
    minutes[at] = minute;
    minuteTexts[at] = new Date(ms).toISOString().slice(0, -'00.000Z'.length);
  }
  const rest = Math.floor(ms) - minute * MINUTE;
  const second = Math.floor(rest / 1000);
  return minuteTexts[at]! + SECONDS[second]! + MILLISECONDS[rest - 1000 * second]!;
}
