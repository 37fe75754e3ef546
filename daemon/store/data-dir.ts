/**
 * The data dir: its files, and the high-water mark that reveals a loss.
 *
 * The file `registry.mark` contains the id of the registry, and a revision and a number of record saves that were durable when
 * it was written. It is written after each commit, without a separate sync, so it is equal to the database or behind it, never
 * ahead. If the database is missing or behind its high-water mark, it has lost acknowledged changes. That is an error at start,
 * never a reason to create a new registry.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createFolder, syncPath, writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { crcOf, DamageError, OlderError } from './integrity.ts';

export interface DataDir {
  path: string;
  database: string;
  /** SQLite's write-ahead log of the database. */
  log: string;
  /** SQLite's rollback journal. It exists only while a backup is converted to a database with a log. */
  journal: string;
  /** The high-water mark. */
  mark: string;
}

export interface HighWaterMark {
  registryId: string;
  revision: number;
  /** Number of changes of tokens, and of saves with other records: identities and conflicts have no revision. */
  saves: number;
}

/** Name of the database in its folder. */
export const DATABASE = 'registry.db';
/** Size of the mark file in bytes: smaller than a disk sector, so that overwriting it is atomic. */
const MARK_BYTES = 128;

/**
 * Returns the paths of the files in a data dir. Creates the folder with mode 0700 if it does not exist.
 * @throws VregError STORE_UNUSABLE
 */
export function openDataDir(path: string): DataDir {
  const dir = resolve(path);
  try {
    // A file is only as durable as the names of its folders, so sync the parent of each new folder.
    for (const created of createFolder(dir, 0o700)) syncPath(dirname(created));
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'data-dir',
      hint: 'use a folder that this user can write to, or choose another with --data-dir',
      cause,
    });
  }
  const database = join(dir, DATABASE);
  const mark = join(dir, 'registry.mark');
  return { path: dir, database, log: `${database}-wal`, journal: `${database}-journal`, mark };
}

/**
 * @returns the size of the database file in bytes, 0 if there is none. Does not open the file, because closing it would drop
 * SQLite's locks
 * @throws VregError STORE_UNUSABLE if it is a link: SQLite would put its log beside the target, where a restore would not find
 * it
 */
export function databaseSize(dir: DataDir): number {
  const found = lstatSync(dir.database, { throwIfNoEntry: false });
  if (!found || found.isFile()) return found?.size ?? 0;
  throw new VregError('STORE_UNUSABLE', `cannot use ${dir.database}: it is not a regular file`, {
    hint: 'put the database file itself there, or pass the folder of the registry with --data-dir',
  });
}

/**
 * @returns undefined if there is none: the data dir is new, or a database was copied into it
 * @throws DamageError, OlderError, VregError STORE_UNUSABLE
 */
export function readHighWaterMark(dir: DataDir): HighWaterMark | undefined {
  if (!existsSync(dir.mark)) return undefined;
  const text = readText(dir.mark);
  let mark: Record<string, unknown> | null = null;
  try {
    mark = JSON.parse(text) as typeof mark;
  } catch {
    // Falls through to the error.
  }
  const { registryId, revision, saves, crc, ...rest } = mark ?? ({} as Record<string, unknown>);
  const isCounted = Number.isSafeInteger(saves);
  if (typeof registryId === 'string' && Number.isSafeInteger(revision) && Object.keys(rest).length === 0) {
    if (isCounted && crc === crcOf([registryId, revision, saves]))
      return { registryId, revision: revision as number, saves: saves as number };
    if (crc === undefined && (isCounted || saves === undefined)) throw new OlderError('it has no checksum', dir.mark);
    if (saves === undefined && crc === crcOf([registryId, revision]))
      throw new OlderError('it does not count saves of records', dir.mark);
  }
  throw new DamageError('it should name the registry and its last known revision', dir.mark);
}

function readText(path: string): string {
  try {
    // Reading a pipe would block until there is a writer.
    if (statSync(path).isFIFO()) throw Object.assign(new Error('it is a pipe'), { code: 'it is a pipe' });
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot read ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check that this user may read it, and that its disk works',
      cause,
    });
  }
}

/** @returns the contradiction between the database and its high-water mark, if there is one */
export function inconsistency(state: Readonly<HighWaterMark>, mark: HighWaterMark | undefined): string | undefined {
  if (!mark) return undefined;
  if (mark.registryId !== state.registryId)
    return `it is the database of another registry (${state.registryId}, not ${mark.registryId})`;
  // First, because a lost change of tokens also lowers the revision.
  if (state.saves < mark.saves)
    return `it lacks the last tokens, revocations or identities: it ends at save ${state.saves}, but save ${mark.saves} was acknowledged`;
  if (state.revision < mark.revision)
    return `it ends at revision ${state.revision}, but revision ${mark.revision} was acknowledged`;
  return undefined;
}

/** The open file of the high-water mark. It is overwritten in place. */
export class HighWaterMarkFile {
  readonly #fd: number;
  /** The last known contents of the file. */
  #written: HighWaterMark;

  /**
   * Creates the file if it does not exist, and writes the mark to the disk.
   * @throws errors of the file system, such as ENOSPC, with the `path` of the file
   */
  constructor(dir: DataDir, mark: HighWaterMark) {
    try {
      // Create it under a temporary name, because an empty mark would count as damaged.
      if (!existsSync(dir.mark)) writeAtomically(dir.mark, encode(mark), { mode: 0o600, sync: true });
      this.#fd = openSync(dir.mark, 'r+');
      this.#written = mark;
      writeCompletely(this.#fd, mark);
      fsyncSync(this.#fd);
    } catch (error) {
      const { path = dir.mark } = error as NodeJS.ErrnoException;
      throw Object.assign(error as Error, { path });
    }
  }

  /**
   * Writes the durable state to the mark file, without an fsync. Never throws: the preceding commit is durable and must not be
   * reported as failed, and an outdated mark is still valid, although it detects the loss of fewer commits.
   */
  advance(mark: HighWaterMark): void {
    try {
      writeCompletely(this.#fd, mark);
      this.#written = mark;
    } catch {
      this.#restoreWritten();
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Undoes a partial write, which would mix two marks. If this also fails, the next commit tries again. */
  #restoreWritten(): void {
    try {
      writeCompletely(this.#fd, this.#written);
    } catch {
      // The disk accepts no writes.
    }
  }
}

/** Repeats the write until the system has accepted all bytes. @throws errors of the file system */
function writeCompletely(fd: number, mark: HighWaterMark): void {
  const bytes = Buffer.from(encode(mark));
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
}

function encode({ registryId, revision, saves }: HighWaterMark): string {
  const crc = crcOf([registryId, revision, saves]);
  return `${JSON.stringify({ registryId, revision, saves, crc }).padEnd(MARK_BYTES - 1)}\n`;
}
