/**
 * The format of the database: its tables, the state row and the records. The names of tables and columns are part of the
 * format, so they stay when the code finds better names.
 */
import type Database from 'libsql';
import { crcOf, DamageError } from './integrity.ts';
import { JOURNAL_SCHEMA } from './journal.ts';
import type { RecordChange, StoredRecord } from './store.ts';

/** "vreg" in ASCII. It identifies the file to file(1), and stops a start in the wrong folder. */
export const APPLICATION_ID = 0x76726567;
/** The only version that this vreg reads. Version 1 had no records, version 2 did not count their saves. */
export const SCHEMA_VERSION = 3;

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
  CREATE TABLE records (
    kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, key)
  ) WITHOUT ROWID;
  CREATE TABLE beats (shard INTEGER PRIMARY KEY, times BLOB NOT NULL, crc INTEGER NOT NULL);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

const COLUMNS = `
  SELECT tables.name, columns.name, columns.type, columns."notnull", columns.pk
  FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'
`;

/**
 * Checks that each table has the columns of {@link SCHEMA}. A flipped bit in the text of a table can turn it into another
 * table that its rows also fit and that later changes would miss: `INTEGER PRAMARY KEY` is a valid type name.
 * @param model an empty in-memory database; this function closes it
 * @throws DamageError
 */
export function checkTables(db: Database.Database, model: Database.Database): void {
  model.exec(SCHEMA);
  const columns = columnsOf(model);
  model.close();
  const known = new Set(columns.map(String));
  const tables = new Set(columns.map(([table]) => table));
  // Other tables are not ours; ANALYZE creates some.
  for (const column of columnsOf(db))
    if (tables.has(column[0]) && !known.has(String(column)))
      throw new DamageError(`table "${column[0]}" has unexpected columns`);
}

function columnsOf(db: Database.Database): unknown[][] {
  return db.prepare(COLUMNS).raw().all() as unknown[][];
}

/** The only row of table `state`. Every transaction updates it, so a missing transaction shows. */
export interface State {
  registryId: string;
  revision: number;
  /** Number of VMs. */
  entries: number;
  /** Listening time, milliseconds. */
  listened: number;
  /** Number of commits that wrote records. Like the revision for changes, it reveals a lost token or revocation. */
  saves: number;
}

/** @throws DamageError */
export function readState(db: Database.Database): State {
  const [row] = db.prepare('SELECT registry_id, revision, entries, listened, saves, crc FROM state').raw().all() as [
    string,
    number,
    number,
    number,
    number,
    number,
  ][];
  if (!row) throw new DamageError('the state row is missing');
  const [registryId, revision, entries, listened, saves, crc] = row;
  const state = { registryId, revision, entries, listened, saves };
  if (crcOfState(state) !== crc) throw new DamageError('the state row fails its checksum');
  return state;
}

export function crcOfState({ registryId, revision, entries, listened, saves }: State): number {
  return crcOf([registryId, revision, entries, listened, saves]);
}

type RecordRow = [kind: StoredRecord['kind'], key: string, body: string, crc: number];

/** Table `records`: JSON under a kind and a key. */
export class RecordTable {
  readonly #db: Database.Database;
  #statements: { save: Database.Statement; remove: Database.Statement } | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** @throws DamageError */
  load(): StoredRecord[] {
    const rows = this.#db.prepare('SELECT kind, key, body, crc FROM records').raw().all() as RecordRow[];
    return rows.map(([kind, key, body, crc]) => {
      if (crcOf([kind, key, body]) !== crc)
        throw new DamageError(`the ${kind} record of ${JSON.stringify(key)} fails its checksum`);
      return { kind, key, body };
    });
  }

  /** Call it inside a transaction. */
  save(changes: readonly RecordChange[]): void {
    this.#statements ??= {
      save: this.#db.prepare('INSERT OR REPLACE INTO records (kind, key, body, crc) VALUES (?, ?, ?, ?)'),
      remove: this.#db.prepare('DELETE FROM records WHERE kind = ? AND key = ?'),
    };
    for (const { kind, key, body } of changes) {
      if (body === undefined) this.#statements.remove.run(kind, key);
      else this.#statements.save.run(kind, key, body, crcOf([kind, key, body]));
    }
  }
}
