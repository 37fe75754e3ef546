/** What the store has against damage that SQLite does not see: a checksum in every row, and words for what it finds. */
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
