/** The one syntax of durations, for flags, settings, variables and query parameters: `90s`, `1h30m`, `30d`, or seconds (`90`). */

/** Milliseconds per unit. */
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Maximum duration in days: ten years. */
export const MAX_DAYS = 3650;

/** Maximum delay of a Node timer in milliseconds. With a longer one, `setTimeout` fires immediately. */
export const MAX_TIMEOUT = 2 ** 31 - 1;

/** @returns whole milliseconds, rounded up; undefined if the text is not a duration or is longer than {@link MAX_DAYS} */
export function durationOf(text: string): number | undefined {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d|$)/gy)];
  const isWhole = parts.map(([part]) => part).join('') === text;
  // A number without a unit is valid only alone: `1h30` may mean minutes or seconds.
  if (parts.length === 0 || !isWhole || (parts.length > 1 && parts.at(-1)![2] === '')) return undefined;
  const ms = parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * UNITS[unit || 's']!, 0);
  return ms <= MAX_DAYS * UNITS.d! ? Math.ceil(ms) : undefined;
}

/** The delay of a timer for a duration in milliseconds: at most {@link MAX_TIMEOUT}, 24 days. */
export function timerDelay(ms: number): number {
  return Math.min(ms, MAX_TIMEOUT);
}
