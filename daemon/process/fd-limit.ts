/** The limit on open files (`ulimit -n`). */
import { closeSync, openSync } from 'node:fs';
import { VregError } from '../../src/protocol/errors.ts';

/** File descriptors that the daemon needs to start: about 16 for itself, and as many for its first clients. */
const NEEDED = 32;

/**
 * Checks that enough files can be opened. If too few can be, libsql would abort the process instead of failing.
 * @throws VregError STORE_UNUSABLE
 */
export function checkFdLimit(): void {
  const files: number[] = [];
  try {
    while (files.length < NEEDED) files.push(openSync('/dev/null', 'r'));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EMFILE') throw cause;
    throw new VregError('STORE_UNUSABLE', `too few file descriptors: ${files.length} left, ${NEEDED} needed`, {
      hint: 'raise the limit: ulimit -n 1024, or LimitNOFILE=1024 in the unit',
      cause,
    });
  } finally {
    for (const file of files) closeSync(file);
  }
}
