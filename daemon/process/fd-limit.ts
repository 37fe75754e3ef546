/** How many files this process may open. */
import { closeSync, openSync } from 'node:fs';
import { VregError } from '../../src/protocol/errors.ts';

/** Files that a start opens, about half of them, and some for the clients that it is for. */
const NEEDED = 32;

/**
 * Looks whether there are enough, before anything is begun: without, libsql does not fail but ends the process.
 * @throws VregError STORE_UNUSABLE
 */
export function checkFdLimit(): void {
  const files: number[] = [];
  try {
    while (files.length < NEEDED) files.push(openSync('/dev/null', 'r'));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EMFILE') throw cause;
    throw new VregError('STORE_UNUSABLE', `only ${files.length} more files may be open, and ${NEEDED} are needed`, {
      hint: 'raise the limit: ulimit -n 1024, or LimitNOFILE=1024 in its unit',
      cause,
    });
  } finally {
    for (const file of files) closeSync(file);
  }
}
