/** The time by the clock of the registry, from which the page computes ages. The clock of this machine may differ, and may be set. */
import { signal } from '@preact/signals';

/** Milliseconds that are ignored: the header has whole seconds, and the response takes time. */
const TOLERANCE = 1500;

/** Wall clock of this machine, milliseconds since the epoch, once per second. */
export const clock = signal(Date.now());
/** Milliseconds by which the clock of the registry is ahead. */
const skew = signal(0);

setInterval(() => {
  clock.value = Date.now();
}, 1000);

/** The time by the clock of the registry, up to a second old: a view that reads it is rendered once per second. */
export function serverNow(): number {
  return clock.value + skew.value;
}

/** The current time by the clock of the registry, which renders nothing again. */
export function peekServerNow(): number {
  return Date.now() + skew.peek();
}

/** Compares the clocks at each response to the page, which sends a request every few seconds while it is live. */
export function compareClocks({ headers }: Response): void {
  const date = Date.parse(headers.get('date') ?? '');
  if (Number.isNaN(date)) return;
  const found = date + 500 - Date.now();
  if (Math.abs(found - skew.peek()) >= TOLERANCE) skew.value = found;
}
