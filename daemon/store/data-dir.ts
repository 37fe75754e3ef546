/**
 * The data dir: which files it holds, and the mark that betrays a loss.
 *
 * `registry.mark` names the registry, and a revision and a save of records that were durable when it was written. It is
 * written after each commit, without a sync of its own, so it is at or behind the database, never ahead of it. A database
 * that is missing, or older than its mark, has lost what was acknowledged: that is an error at start, never a fresh
 * registry.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { VregError } from '../../src/protocol/errors.ts';
import { crcOf } from './integrity.ts';

export interface DataDir {
  path: string;
  database: string;
  /** SQLite's write-ahead log of the database. */
  log: string;
  /** SQLite's rollback journal of the database: there only while a file is made a database with a log. */
  journal: string;
  mark: string;
}

export interface Mark {
  registryId: string;
  revision: number;
  /** Saves that carried records: tokens, their revocations, identities and conflicts have no revision. */
  saves: number;
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
    const made = mkdirSync(dir, { recursive: true, mode: 0o700 });
    // What is in a folder is as durable as the folder's own entry in the one above.
    if (made !== undefined) for (let at = dir; at !== dirname(made); at = dirname(at)) syncFolder(dirname(at));
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'make it a folder that this user may write, or choose another with --data-dir',
      cause,
    });
  }
  const database = join(dir, DATABASE);
  const mark = join(dir, 'registry.mark');
  return { path: dir, database, log: `${database}-wal`, journal: `${database}-journal`, mark };
}

function syncFolder(path: string): void {
  const fd = openSync(path, 'r');
  fsyncSync(fd);
  closeSync(fd);
}

/**
 * Bytes of the database file; 0 when there is none. It is never opened here: closing it would drop SQLite's locks.
 * @throws VregError STORE_UNUSABLE when it is a link: SQLite would put its log beside the target, where nobody looks for it
 */
export function databaseSize(dir: DataDir): number {
  const found = lstatSync(dir.database, { throwIfNoEntry: false });
  if (!found || found.isFile()) return found?.size ?? 0;
  throw new VregError('STORE_UNUSABLE', `cannot use ${dir.database}: it is no regular file`, {
    hint: 'put the file itself there; a registry that lies elsewhere is started with --data-dir',
  });
}

/**
 * @returns undefined when there is none: a new data dir, or one into which somebody copied a database
 * @throws VregError STORE_DAMAGED, STORE_UNUSABLE
 */
export function readMark(dir: DataDir): Mark | undefined {
  if (!existsSync(dir.mark)) return undefined;
  const text = readText(dir.mark);
  try {
    const { registryId, revision, saves, crc } = JSON.parse(text) as Partial<Mark> & { crc?: number };
    const isMark = typeof registryId === 'string' && Number.isSafeInteger(revision);
    // Early marks did not count saves, and the first ones had no checksum.
    const expected = crcOf(saves === undefined ? [registryId, revision] : [registryId, revision, saves]);
    if (isMark && Number.isSafeInteger(saves ?? 0) && (crc ?? expected) === expected)
      return { registryId, revision: revision!, saves: saves ?? 0 };
  } catch {
    // Told below.
  }
  throw new VregError(
    'STORE_DAMAGED',
    `${dir.mark} is damaged: it should name the registry and its last known revision`,
    {
      hint: `nothing was changed; put a backup in its place (vreg daemon restore FILE), or remove the mark (rm ${dir.mark}) and start again: the database is checked by itself, but a loss of its last changes would then go unnoticed`,
    },
  );
}

function readText(path: string): string {
  try {
    // A pipe would be waited for.
    if (statSync(path).isFIFO()) throw Object.assign(new Error('it is a pipe'), { code: 'it is a pipe' });
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot read ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check that this user may read it, and that its disk is well',
      cause,
    });
  }
}

/** What a mark beside the database says about it, if anything is wrong. */
export function contradiction(state: Readonly<Mark>, mark: Mark | undefined): string | undefined {
  if (!mark) return undefined;
  if (mark.registryId !== state.registryId)
    return `it is the database of another registry (${state.registryId}, not ${mark.registryId})`;
  if (state.revision < mark.revision)
    return `it ends at revision ${state.revision}, but revision ${mark.revision} was acknowledged`;
  if (state.saves < mark.saves)
    return `it lacks the last tokens, revocations or identities: it ends at save ${state.saves} of these, but save ${mark.saves} was acknowledged`;
  return undefined;
}

/** The mark, written in place. */
export class MarkFile {
  readonly #fd: number;
  /** What the file says, as far as is known. */
  #written: Mark;

  /** Makes the file if it is not there, and writes the mark to the disk. @throws the system's errors, e.g. ENOSPC */
  constructor(dir: DataDir, mark: Mark) {
    const draft = `${dir.mark}.new`;
    try {
      if (!existsSync(dir.mark)) {
        // Made under another name: a mark without contents would be a damaged one.
        writeFileSync(draft, encode(mark), { mode: 0o600, flush: true });
        renameSync(draft, dir.mark);
      }
      this.#fd = openSync(dir.mark, 'r+');
      this.#written = mark;
      writeWhole(this.#fd, mark);
      fsyncSync(this.#fd);
    } catch (error) {
      const { path = dir.mark, code } = error as NodeJS.ErrnoException;
      // A folder of this name is not ours.
      if (code !== 'EISDIR') rmSync(draft, { force: true });
      // Who reads the error wants to know of which file it is.
      throw Object.assign(error as Error, { path });
    }
  }

  /**
   * Moves the mark to what is on the disk by now, not synced. It never fails: the change that it follows is durable and
   * may not be called a failure, and a mark that stays behind is a weaker guard but no wrong one.
   */
  advance(mark: Mark): void {
    try {
      writeWhole(this.#fd, mark);
      this.#written = mark;
    } catch {
      this.#putBack();
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Half of a new mark over an old one would be neither. The next change tries again. */
  #putBack(): void {
    try {
      writeWhole(this.#fd, this.#written);
    } catch {
      // Nothing can be written, so nothing was.
    }
  }
}

/** The system may take a part at a time. @throws the system's errors */
function writeWhole(fd: number, mark: Mark): void {
  const bytes = Buffer.from(encode(mark));
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
}

function encode({ registryId, revision, saves }: Mark): string {
  const crc = crcOf([registryId, revision, saves]);
  return `${JSON.stringify({ registryId, revision, saves, crc }).padEnd(MARK_BYTES - 1)}\n`;
}
