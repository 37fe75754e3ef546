/**
 * Detects damage that SQLite does not notice, with a checksum in every row, checks of file headers before a file is opened, and
 * a check that the open files are still the files in the data dir.
 */
import { type BigIntStats, closeSync, openSync, readSync, statSync } from 'node:fs';
import { crc32 } from 'node:zlib';

/** An error about the contents of one file. */
class FileError extends Error {
  /** The file, if it is not the database. */
  readonly path: string | undefined;

  constructor(message: string, path?: string) {
    super(message);
    this.path = path;
  }
}

/** The contents of the file are wrong. */
export class DamageError extends FileError {}

/** Message of a {@link DamageError} about the database of another program. */
export const NOT_A_REGISTRY = 'it is not the database of a vreg registry';

/** The file is intact, but in a format that older versions of vreg wrote and this one does not read. */
export class OlderError extends FileError {}

/** The file is intact, but in a format that only newer versions of vreg read. */
export class NewerError extends FileError {}

/** A file in the data dir is open, but was removed or replaced. */
export class GoneError extends Error {}

/** CRC-32 of the key and the values of a row. */
export function crcOf(values: readonly unknown[]): number {
  return crc32(JSON.stringify(values));
}

/** CRC-32 of a key and bytes. */
export function crcOfBytes(key: number, bytes: Buffer): number {
  return crc32(bytes, key);
}

/** Offset of the two bytes with the format versions that are required to write and to read the file: 1, or 2 with a log. */
const FORMAT_VERSIONS = 18;

/**
 * Reads the format versions of a database. Opens and closes the file, which drops a lock that this process has on it
 * (fcntl(2)).
 */
export function readFormat(path: string): Buffer {
  return readBytes(path, FORMAT_VERSIONS, 2);
}

/**
 * Checks that SQLite can write a file with this format (sqlite.org/fileformat2.html, 1.3.3). SQLite opens a file with a later
 * format without an error, and then refuses every change.
 * @throws DamageError
 */
export function checkFormat(versions: Buffer): void {
  if (versions.some((version) => version !== 1 && version !== 2))
    throw new DamageError('its header has an unknown format version');
}

/** Header of a rollback journal (sqlite.org/fileformat2.html, 3): its magic number, and offsets of its fields. */
const JOURNAL = { magic: 'd9d505f920a163d7', pages: 16, length: 28, pageSize: 24 };
/** Offset of the application id in a database. It is "vreg", or zero before the registry is created. */
const APPLICATION = 68;

/**
 * Checks that a rollback journal beside the database belongs to it. SQLite applies a journal when it first reads the database,
 * so a journal that belongs to another database, for example from a killed first start, would truncate this one. The daemon
 * itself writes a rollback journal only when it converts a backup to a database with a log, which never shrinks the file. Call
 * it before the database is locked, because it opens and closes the file.
 * @throws DamageError, or an error of the file system
 */
export function checkJournal({ database, journal }: Record<'database' | 'journal', string>): void {
  if (!statSync(journal, { throwIfNoEntry: false })?.isFile()) return;
  const header = readBytes(journal, 0, JOURNAL.length);
  if (header.toString('hex', 0, 8) !== JOURNAL.magic || readBytes(database, APPLICATION, 4).toString() !== 'vreg')
    return;
  const size = header.readUInt32BE(JOURNAL.pages) * header.readUInt32BE(JOURNAL.pageSize);
  if (size < statSync(database).size)
    throw new DamageError(
      `${journal} belongs to another database and would truncate this one to ${size} bytes; move the journal away if you do not need it`,
    );
}

/** @returns the bytes; zeros beyond the end of the file */
function readBytes(path: string, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, bytes, 0, length, at);
  } finally {
    closeSync(fd);
  }
  return bytes;
}

interface OpenFile {
  path: string;
  /** Device and inode. The file system does not reuse the number while the file is open. */
  inode: string | undefined;
}

/**
 * Checks that the open files are still the files in the data dir. SQLite continues to write to a file that was removed or
 * moved, and its syncs succeed, but the next start would not find those changes. SQLite itself checks this only if the database
 * has no log (SQLITE_READONLY_DBMOVED).
 */
export class OpenFiles {
  readonly #files: OpenFile[] = [];

  /** @param path a file that is open, or about to be opened: if it is replaced in between, {@link check} reports it */
  add(path: string): void {
    this.#files.push({ path, inode: inodeOf(path) });
  }

  /**
   * Checks all files, which takes microseconds. A file that was moved back passes.
   * @throws GoneError naming the file that is missing or was replaced; an error of the file system, such as EIO
   */
  check(): void {
    for (const { path, inode } of this.#files) {
      const now = inodeOf(path);
      if (now === inode && now !== undefined) continue;
      throw new GoneError(`${path} ${now === undefined ? 'is missing' : 'was replaced by another file'}`);
    }
  }
}

function inodeOf(path: string): string | undefined {
  const found: BigIntStats | undefined = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found && `${found.dev}:${found.ino}`;
}
