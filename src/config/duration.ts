/** Durations as people write them (`90s`, `5m`, `1h30m`) and as they read them. All numbers are milliseconds. */

import { VregError } from '../protocol/errors.ts';
import { maskValue } from '../protocol/redact.ts';

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** 24 days: beyond it `setTimeout` fires at once instead of late. */
const MAX_DURATION = 2_147_483_647;
/** Ten years: the longest span that nobody waits for. */
export const MAX_SPAN = 3650 * UNITS.d!;

/**
 * Reads a duration such as `90s`, `5m`, `1h30m` or `250ms`.
 * @param name what is being read, for the error
 * @param max milliseconds that it may be at most
 * @returns milliseconds, whole and more than 0
 * @throws VregError USAGE
 */
export function parseDuration(text: string, name: string, max = MAX_DURATION): number {
  const parts = [...text.trim().matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/gy)];
  const whole = parts.map((part) => part[0]).join('');
  const value = Math.ceil(parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * UNITS[unit as string]!, 0));
  if (whole === '' || whole !== text.trim() || value <= 0 || value > max) {
    throw new VregError('USAGE', `${name}: "${maskValue(text)}" is not a duration`, {
      field: name,
      hint: `write it as 90s, 5m or 1h30m (more than 0, at most ${Math.floor(max / UNITS.d!)} days)`,
    });
  }
  return value;
}

/** The two largest units of a span, for people: `45s`, `3m`, `1h30m`, `2d4h`. */
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

/** `3m ago`; a time in the future (clocks differ) is `just now`. */
export function formatAge(ms: number): string {
  return ms < 1000 ? 'just now' : `${formatDuration(ms)} ago`;
}
