/**
 * The one syntax of durations, for flags, settings, variables, query parameters and messages: `90s`, `1h30m`, `30d`, or seconds (`90`).
 */

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

/** Formats milliseconds with at most two units: `45s`, `3m`, `1h30m`, `2d4h`. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 && minutes < 10 ? `${minutes}m${seconds % 60}s` : `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours}h${minutes % 60}m` : `${hours}h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days}d${hours % 24}h` : `${days}d`;
}

/** Formats milliseconds exactly, apart from parts of a second in a longer duration: `500ms`, `15m40s`, `3d2h`. */
export function formatExactDuration(ms: number): string {
  if (ms > 0 && ms < 1000) return `${Math.ceil(ms)}ms`;
  let rest = Math.max(0, Math.floor(ms / 1000)) * 1000;
  let text = '';
  for (const unit of ['d', 'h', 'm', 's'] as const) {
    const amount = Math.floor(rest / UNITS[unit]!);
    rest -= amount * UNITS[unit]!;
    if (amount > 0) text += `${amount}${unit}`;
  }
  return text || '0s';
}

/** The delay of a timer for a duration in milliseconds: at most {@link MAX_TIMEOUT}, 24 days. */
export function timerDelay(ms: number): number {
  return Math.min(ms, MAX_TIMEOUT);
}
