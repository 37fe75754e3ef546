/** The tables of the database, and what marks a file as one of ours. */
import type Database from 'libsql';
import { DamageError } from './integrity.ts';
import { JOURNAL_SCHEMA } from './journal.ts';
import { RECORDS_SCHEMA } from './records.ts';

/** "vreg" in ASCII: marks the file as ours for file(1) and for a start in the wrong folder. */
export const APPLICATION_ID = 0x76726567;
/** 2 has records besides what 1 had, and 3 counts their saves. */
export const SCHEMA_VERSION = 3;
/** The first version that counts saves of records. */
export const COUNTS_SAVES = 3;

export const SAVES_SCHEMA = 'ALTER TABLE state ADD COLUMN saves INTEGER NOT NULL DEFAULT 0;';

export const SCHEMA = `
  CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    registry_id TEXT NOT NULL, revision INTEGER NOT NULL, entries INTEGER NOT NULL, listened REAL NOT NULL,
    saves INTEGER NOT NULL DEFAULT 0, crc INTEGER NOT NULL
  );
  CREATE TABLE vms (
    id TEXT PRIMARY KEY, created INTEGER NOT NULL, revision INTEGER NOT NULL, slot INTEGER NOT NULL UNIQUE,
    body TEXT NOT NULL, crc INTEGER NOT NULL
  );
  ${JOURNAL_SCHEMA}
  ${RECORDS_SCHEMA}
  CREATE TABLE beats (shard INTEGER PRIMARY KEY, times BLOB NOT NULL, crc INTEGER NOT NULL);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

const COLUMNS = `
  SELECT tables.name, columns.name, columns.type, columns."notnull", columns.pk
  FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'
`;

/**
 * Checks that each table is as it was made, or as an earlier version made it. By a flipped bit in its text, SQLite can take
 * one for another that its rows fit as well, and later changes miss: `INTEGER PRAMARY KEY` is the name of a type.
 * @param model an empty database in memory; it is closed
 * @throws DamageError
 */
export function checkTables(db: Database.Database, model: Database.Database): void {
  model.exec(SCHEMA);
  const columns = columnsOf(model);
  model.close();
  const known = new Set(columns.map(String));
  const tables = new Set(columns.map(([table]) => table));
  // Others are not ours: those that ANALYZE makes, for one.
  for (const column of columnsOf(db))
    if (tables.has(column[0]) && !known.has(String(column)))
      throw new DamageError(`its table "${column[0]}" is not as it was made`);
}

function columnsOf(db: Database.Database): unknown[][] {
  return db.prepare(COLUMNS).raw().all() as unknown[][];
}
