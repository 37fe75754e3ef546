/** Tells from the size of a file that SQLite, which cannot be asked while it copies a database, makes progress. */
import { stat } from 'node:fs/promises';
import { setInterval } from 'node:timers/promises';

/** Milliseconds between two looks at the file. */
const INTERVAL = 1000;

/**
 * Calls back each time a look at the file finds more bytes than the last one.
 * @param path of a file that may not exist yet
 * @param interval in milliseconds
 * @returns a promise that never rejects, and resolves when the signal is aborted
 */
export async function watchGrowth(
  path: string,
  onGrowth: () => void,
  signal: AbortSignal,
  interval = INTERVAL,
): Promise<void> {
  let last = 0;
  try {
    for await (const _ of setInterval(interval, undefined, { signal, ref: false })) {
      // Not statSync: a disk that hangs must not stop the event loop.
      const { size } = await stat(path).catch(() => ({ size: 0 }));
      if (size > last && !signal.aborted) onGrowth();
      last = Math.max(last, size);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
