/**
 * The format of the database: its tables, the state row and the records. The names of tables and columns are part of the
 * format, so they do not change even if the code uses other names.
 */
import type Database from 'libsql';
import { TagHash, tagOf } from '../../src/protocol/position.ts';
import { crcOf, DamageError } from './integrity.ts';
import { JOURNAL_SCHEMA } from './journal.ts';
import type { RecordChange, StoredRecord, StoredVm } from './store.ts';

/** "vreg" in ASCII. Identifies the file for file(1), and prevents a start with the database of another program. */
export const APPLICATION_ID = 0x76726567;
/** Version 1 had no records, version 2 did not count their saves, and version 3 had no tags. */
export const SCHEMA_VERSION = 4;
/** The oldest version that this vreg reads. The first change upgrades the store with {@link UPGRADE}. */
export const OLDEST_VERSION = 3;

export const SCHEMA = `
  CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    registry_id TEXT NOT NULL, revision INTEGER NOT NULL, entries INTEGER NOT NULL, listened REAL NOT NULL,
    saves INTEGER NOT NULL DEFAULT 0, crc INTEGER NOT NULL, tag TEXT
  );
  CREATE TABLE vms (
    id TEXT PRIMARY KEY, created INTEGER NOT NULL, revision INTEGER NOT NULL, slot INTEGER NOT NULL UNIQUE,
    body TEXT NOT NULL, crc INTEGER NOT NULL, tag TEXT
  );
  ${JOURNAL_SCHEMA}
  CREATE TABLE records (
    kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, key)
  ) WITHOUT ROWID;
  CREATE TABLE beats (shard INTEGER PRIMARY KEY, times BLOB NOT NULL, crc INTEGER NOT NULL);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/**
 * Upgrades schema 3 to the current one. Entries and changes from before the upgrade have NULL as their tag, so the upgrade
 * rewrites no rows.
 */
export const UPGRADE = `
  ALTER TABLE state ADD COLUMN tag TEXT;
  ALTER TABLE vms ADD COLUMN tag TEXT;
  ALTER TABLE journal ADD COLUMN tag TEXT;
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

const COLUMNS = `
  SELECT tables.name, columns.name, columns.type, columns."notnull", columns.pk
  FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'
`;

/**
 * Checks that each table has the columns of {@link SCHEMA}. A flipped bit in the definition of a table can yield another valid
 * definition, because SQLite accepts any words as a type (`INTEGER PRAMARY KEY`). The existing rows still fit it, but later
 * changes would not.
 * @param model an empty in-memory database; this function closes it
 * @throws DamageError
 */
export function checkTables(db: Database.Database, model: Database.Database): void {
  model.exec(SCHEMA);
  const columns = columnsOf(model);
  model.close();
  const known = new Set(columns.map(String));
  const tables = new Set(columns.map(([table]) => table));
  // Ignore other tables; ANALYZE creates some.
  for (const column of columnsOf(db))
    if (tables.has(column[0]) && !known.has(String(column)))
      throw new DamageError(`table "${column[0]}" has unexpected columns`);
}

function columnsOf(db: Database.Database): unknown[][] {
  return db.prepare(COLUMNS).raw().all() as unknown[][];
}

/** The only row in the table `state`. Every transaction updates it, so a missing transaction can be detected. */
export interface State {
  registryId: string;
  revision: number;
  /** Number of VMs. */
  entries: number;
  /** Listening time, milliseconds. */
  listened: number;
  /**
   * Number of changes to tokens, plus number of saves with other records. If it is too low, a token, a revocation, an identity
   * or a conflict was lost.
   */
  saves: number;
  /** Tag of the last change; undefined in a store of schema 3. */
  tag: string | undefined;
}

type StateRow = [registryId: string, revision: number, entries: number, listened: number, saves: number, crc: number];

/** Reads and checks the state row. @param isTagged false for a store of schema 3 @throws DamageError */
export function readState(db: Database.Database, isTagged: boolean): State {
  const columns = `registry_id, revision, entries, listened, saves, crc, ${isTagged ? 'tag' : 'NULL'}`;
  const [row] = db.prepare(`SELECT ${columns} FROM state`).raw().all() as [...StateRow, tag: string | null][];
  if (!row) throw new DamageError('the state row is missing');
  const [registryId, revision, entries, listened, saves, crc, tag] = row;
  const state = { registryId, revision, entries, listened, saves, tag: tag ?? undefined };
  if (crcOfState(state) !== crc || (isTagged && tag === null))
    throw new DamageError('the state row fails its checksum');
  return state;
}

export function crcOfState({ registryId, revision, entries, listened, saves, tag }: State): number {
  return crcOf([registryId, revision, entries, listened, saves, ...(tag === undefined ? [] : [tag])]);
}

/** The tag at revision 0 of a registry. */
export function initialTag(registryId: string): string {
  return tagOf(JSON.stringify(registryId));
}

type TaggedColumns = Pick<StoredVm, 'id' | 'created' | 'revision' | 'body'>;

/** Computes the tag of an entry that has not changed since schema 3, which stored none. */
export function entryTag({ id, created, revision, body }: TaggedColumns): string {
  return tagOf(JSON.stringify([id, created, revision, body]));
}

/**
 * Computes the tag of the last change in a store of schema 3. Add the rows of the journal without their checksums, oldest
 * first, and then all VMs, oldest registration first. Heartbeats do not affect the tag, so two copies of a store compute the
 * same one.
 */
export class UpgradeTag {
  readonly #hash = new TagHash();

  constructor({ registryId, revision }: Pick<State, 'registryId' | 'revision'>) {
    this.#hash.add(JSON.stringify([registryId, revision]));
  }

  addChange(row: readonly unknown[]): void {
    this.#hash.add(JSON.stringify(row));
  }

  addVm({ id, created, revision, body }: TaggedColumns): void {
    this.#hash.add(JSON.stringify([id, created, revision, body]));
  }

  get tag(): string {
    return this.#hash.tag;
  }
}

type RecordRow = [kind: StoredRecord['kind'], key: string, body: string, crc: number];

/** Records per batch. */
const BATCH = 256;

/** The table `records`, which stores JSON by kind and key. */
export class RecordTable {
  readonly #db: Database.Database;
  #statements: { save: Database.Statement; remove: Database.Statement } | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** Reads all records, in batches. @throws DamageError */
  *batches(): Generator<StoredRecord[]> {
    const rows = this.#db.prepare('SELECT kind, key, body, crc FROM records').raw().iterate() as Iterable<RecordRow>;
    let batch: StoredRecord[] = [];
    for (const [kind, key, body, crc] of rows) {
      if (crcOf([kind, key, body]) !== crc)
        throw new DamageError(`the ${kind} record of ${JSON.stringify(key)} fails its checksum`);
      if (batch.push({ kind, key, body }) < BATCH) continue;
      yield batch;
      batch = [];
    }
    yield batch;
  }

  /** Writes or removes records. Call it inside a transaction. */
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
