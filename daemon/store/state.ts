/**
 * The one row that says how far the registry is: revision, number of entries, listening time and saves of records, with
 * its checksum.
 */
import type Database from 'libsql';
import { crcOf, DamageError } from './integrity.ts';
import { COUNTS_SAVES } from './schema.ts';

export interface State {
  registryId: string;
  revision: number;
  entries: number;
  /** Listening time, milliseconds. */
  listened: number;
  /** Saves that carried records: as a revision does of changes, it betrays the loss of a token or of its revocation. */
  saves: number;
}

/** @param version of the schema @throws DamageError */
export function readState(db: Database.Database, version: number): State {
  const counts = version >= COUNTS_SAVES;
  const columns = `registry_id, revision, entries, listened, ${counts ? 'saves' : '0'}, crc`;
  const rows = db.prepare(`SELECT ${columns} FROM state`).raw().all();
  const [row] = rows as [string, number, number, number, number, number][];
  if (!row) throw new DamageError('its state row is missing');
  const [registryId, revision, entries, listened, saves, crc] = row;
  const state = { registryId, revision, entries, listened, saves };
  const expected = counts ? crcOfState(state) : crcOf([registryId, revision, entries, listened]);
  if (expected !== crc) throw new DamageError('its state row fails its checksum');
  return state;
}

export function crcOfState({ registryId, revision, entries, listened, saves }: State): number {
  return crcOf([registryId, revision, entries, listened, saves]);
}
