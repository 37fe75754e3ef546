/** What the store has against damage that SQLite does not see, a checksum in every row above all, and words for what it finds. */
import { closeSync, openSync, readSync } from 'node:fs';
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

/**
 * Checks that SQLite will write the file, which is at work (sqlite.org/fileformat2.html, 1.3.3): one of a later version it
 * reads without a word, and then refuses every change.
 * @throws DamageError, and the system's errors
 */
export function checkFormat(path: string): void {
  const versions = Buffer.alloc(2);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, versions, 0, versions.length, FORMAT_VERSIONS);
  } finally {
    closeSync(fd);
  }
  if (versions.some((version) => version !== 1 && version !== 2))
    throw new DamageError('its header names a version of its format that nobody can write');
}
