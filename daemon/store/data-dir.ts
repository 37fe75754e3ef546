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
  statSync,
  writeSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { VregError } from '../../src/protocol/errors.ts';

export interface DataDir {
  path: string;
  database: string;
  mark: string;
}

export interface Mark {
  registryId: string;
  revision: number;
}

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
  return { path: dir, database: join(dir, 'registry.db'), mark: join(dir, 'registry.mark') };
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
      hint: `the database beside it may be whole: if \`sqlite3 ${dir.database} "select revision from state"\` says what you expect, remove the mark and start again`,
    },
  );
}

/** Writes the mark in place; synced only on request. */
export class MarkFile {
  readonly #fd: number;

  constructor(dir: DataDir) {
    this.#fd = openSync(dir.mark, existsSync(dir.mark) ? 'r+' : 'w', 0o600);
  }

  write(mark: Mark, { sync = false } = {}): void {
    writeSync(this.#fd, `${JSON.stringify(mark).padEnd(MARK_BYTES - 1)}\n`, 0);
    if (sync) fsyncSync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
