/** The one row that says how far the registry is: revision, number of entries and listening time, with its checksum. */
import type Database from 'libsql';
import { crcOf, DamageError } from './guards.ts';

export interface State {
  registryId: string;
  revision: number;
  entries: number;
  /** Listening time, milliseconds. */
  listened: number;
}

/** @throws DamageError */
export function readState(db: Database.Database): State {
  const rows = db.prepare('SELECT registry_id, revision, entries, listened, crc FROM state').raw().all();
  const [row] = rows as [string, number, number, number, number][];
  if (!row) throw new DamageError('its state row is missing');
  const [registryId, revision, entries, listened, crc] = row;
  const state = { registryId, revision, entries, listened };
  if (crcOfState(state) !== crc) throw new DamageError('its state row fails its checksum');
  return state;
}

export function crcOfState({ registryId, revision, entries, listened }: State): number {
  return crcOf([registryId, revision, entries, listened]);
}
