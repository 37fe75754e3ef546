/** What the store has against damage that SQLite does not see, a checksum in every row above all, and words for what it finds. */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { crc32 } from 'node:zlib';

/** What the file says that it should not. */
export class DamageError extends Error {}

/** CRC-32 over a row's key and values. */
export function crcOf(values: readonly unknown[]): number {
  return crc32(JSON.stringify(values));
}

export function crcOfBytes(key: number, bytes: Buffer): number {
  return crc32(bytes, key);
}

/** A file of the data dir is open, and not in its place any more. */
export class GoneError extends Error {}

/** The file is whole, and of a version that this program does not know. */
export class NewerError extends Error {}

/** Where a database says which version of the format it takes to write it and to read it: 1, or 2 with a log. */
const FORMAT_VERSIONS = 18;

/** The versions that a database names. It opens the file, and so gives up this process's lock on it (fcntl(2)), if it has one. */
export function formatOf(path: string): Buffer {
  return bytesOf(path, FORMAT_VERSIONS, 2);
}

/**
 * Checks that SQLite will write a file of this format (sqlite.org/fileformat2.html, 1.3.3): one of a later version it reads
 * without a word, and then refuses every change.
 * @throws DamageError
 */
export function checkFormat(versions: Buffer): void {
  if (versions.some((version) => version !== 1 && version !== 2))
    throw new DamageError('its header names a version of its format that nobody can write');
}

/** How a rollback journal begins that SQLite takes for one, and where it says how many pages the database had. */
const JOURNAL = { magic: 'd9d505f920a163d7', pages: 16, length: 28, pageSize: 24 };
/** Where a database has its application id: ours is "vreg". A file that no registry was made in yet has none. */
const APPLICATION = 68;

/**
 * Checks that a rollback journal beside the database is its own: the first look at the database plays it back, and one that
 * was left by another file, a first start that was killed for one, would cut this one. A registry writes one only to turn a
 * backup into a database with a log, which changes no size. It opens the file: only for who has no lock on it yet.
 * @throws DamageError, and the system's errors
 */
export function checkJournal({ database, journal }: Record<'database' | 'journal', string>): void {
  if (!statSync(journal, { throwIfNoEntry: false })?.isFile()) return;
  const header = bytesOf(journal, 0, JOURNAL.length);
  if (header.toString('hex', 0, 8) !== JOURNAL.magic || bytesOf(database, APPLICATION, 4).toString() !== 'vreg') return;
  const size = header.readUInt32BE(JOURNAL.pages) * header.readUInt32BE(JOURNAL.pageSize);
  if (size < statSync(database).size)
    throw new DamageError(
      `${journal} is not its own, and would cut it to ${size} bytes; move that away if it is not needed`,
    );
}

/** @returns as many bytes; zeros where the file has none */
function bytesOf(path: string, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, bytes, 0, length, at);
  } finally {
    closeSync(fd);
  }
  return bytes;
}
