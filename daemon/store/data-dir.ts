/**
 * The data dir: which files it holds, and the mark that betrays a loss.
 *
 * `registry.mark` names the registry and a revision that was durable when it was written. It is written after each
 * commit, without a sync of its own, so it is at or behind the database, never ahead of it. A database that is missing,
 * or older than its mark, has lost acknowledged changes: that is an error at start, never a fresh registry.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { VregError } from '../../src/protocol/errors.ts';

export interface DataDir {
  path: string;
  database: string;
  /** SQLite's write-ahead log of the database. */
  log: string;
  mark: string;
}

export interface Mark {
  registryId: string;
  revision: number;
}

/** Name of the database in its folder. */
export const DATABASE = 'registry.db';
/** Bytes of the mark file: one sector's worth at most, so that a write in place is whole or not there. */
const MARK_BYTES = 128;

/**
 * Names the files of a data dir, and makes the folder (mode 0700) when it is not there.
 * @throws VregError STORE_UNUSABLE
 */
export function openDataDir(path: string): DataDir {
  const dir = resolve(path);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'make it a folder that this user may write, or choose another with --data-dir',
      cause,
    });
  }
  const database = join(dir, DATABASE);
  return { path: dir, database, log: `${database}-wal`, mark: join(dir, 'registry.mark') };
}

/** Bytes of the database file; 0 when there is none. It is never opened here: closing it would drop SQLite's locks. */
export function databaseSize(dir: DataDir): number {
  return statSync(dir.database, { throwIfNoEntry: false })?.size ?? 0;
}

/**
 * @returns undefined when there is none: a new data dir, or one into which somebody copied a database
 * @throws VregError STORE_DAMAGED
 */
export function readMark(dir: DataDir): Mark | undefined {
  if (!existsSync(dir.mark)) return undefined;
  const text = readFileSync(dir.mark, 'utf8');
  try {
    const { registryId, revision } = JSON.parse(text) as Partial<Mark>;
    if (typeof registryId === 'string' && Number.isSafeInteger(revision)) return { registryId, revision: revision! };
  } catch {
    // Told below.
  }
  throw new VregError(
    'STORE_DAMAGED',
    `${dir.mark} is damaged: it should name the registry and its last known revision`,
    {
      hint: `remove it (rm ${dir.mark}) and start again: the database is checked by itself, but a loss of its last changes would then go unnoticed`,
    },
  );
}

/** The mark, written in place. */
export class MarkFile {
  readonly #fd: number;

  /** Makes the file if it is not there, and writes the mark to the disk. @throws the system's errors, e.g. ENOSPC */
  constructor(dir: DataDir, mark: Mark) {
    if (!existsSync(dir.mark)) {
      // Made under another name: a mark without contents would be a damaged one.
      writeFileSync(`${dir.mark}.new`, encode(mark), { mode: 0o600, flush: true });
      renameSync(`${dir.mark}.new`, dir.mark);
    }
    this.#fd = openSync(dir.mark, 'r+');
    writeSync(this.#fd, encode(mark), 0);
    fsyncSync(this.#fd);
  }

  /**
   * Moves the mark to what is on the disk by now, not synced. It never fails: the change that it follows is durable and
   * may not be called a failure, and a mark that stays behind is a weaker guard but no wrong one.
   */
  advance(mark: Mark): void {
    try {
      writeSync(this.#fd, encode(mark), 0);
    } catch {
      // The next change tries again.
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function encode(mark: Mark): string {
  return `${JSON.stringify(mark).padEnd(MARK_BYTES - 1)}\n`;
}
