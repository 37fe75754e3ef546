/**
 * Whether the files that are open are still those of the data dir. SQLite writes on into a file that was removed or moved
 * away, and its syncs go well, but the next start would find nothing of that. Without a log SQLite looks itself
 * (SQLITE_READONLY_DBMOVED); with one it does not.
 */
import { type BigIntStats, statSync } from 'node:fs';
import { GoneError } from './integrity.ts';

interface OwnFile {
  path: string;
  /** Device and inode. While a file is open, no other one gets its number. */
  identity: string | undefined;
}

export class OwnFiles {
  readonly #files: OwnFile[] = [];

  /**
   * @param path of a file that is open by now, or that is about to be opened: when it is exchanged meanwhile, by a restore
   * for one, the next {@link check} says so
   */
  add(path: string): void {
    this.#files.push({ path, identity: identityOf(path) });
  }

  /**
   * Costs microseconds. A file that comes back to its place is right again.
   * @throws GoneError naming the file that is missing or another one; the system's errors, e.g. EIO
   */
  check(): void {
    for (const { path, identity } of this.#files) {
      const now = identityOf(path);
      if (now === identity && now !== undefined) continue;
      throw new GoneError(`${path} ${now === undefined ? 'is gone' : 'is another file than the one that is open'}`);
    }
  }
}

function identityOf(path: string): string | undefined {
  const found: BigIntStats | undefined = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found && `${found.dev}:${found.ino}`;
}
