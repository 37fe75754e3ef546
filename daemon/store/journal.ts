/** The journal: who changed which VM, when and how. It is written in the transaction of each change, and bounded. */
import type Database from 'libsql';
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';
import { crcOf, DamageError } from './integrity.ts';
import type { Change } from './store.ts';

/** Changes that the journal retains: months of a quiet fleet, a few megabytes. */
const MAX_CHANGES = 10_000;
/** Characters of JSON of one value in the journal. The journal shows what changed; it is not a backup of large metadata. */
const MAX_VALUE = 4096;

export const JOURNAL_SCHEMA = `
  CREATE TABLE journal (
    revision INTEGER PRIMARY KEY, id TEXT NOT NULL, at INTEGER NOT NULL, type TEXT NOT NULL, by TEXT NOT NULL,
    changes TEXT NOT NULL, crc INTEGER NOT NULL
  );
  CREATE INDEX journal_of_vm ON journal (id, revision);
`;

const SELECT = 'SELECT revision, id, at, type, by, changes, crc FROM journal';

type Row = [revision: number, id: string, at: number, type: ChangeType, by: string, changes: string, crc: number];

export class Journal {
  readonly #db: Database.Database;
  #statements: { add: Database.Statement; trim: Database.Statement; read: Database.Statement } | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** Adds a change and removes the oldest one beyond the limit. Call it inside the transaction of the change. */
  add(change: Change): void {
    const { type, at, by, changes } = change.note;
    const id = change.kind === 'put' ? change.vm.id : change.id;
    const row = [change.revision, id, at, type, by, JSON.stringify(changes)];
    this.#prepared.add.run(...row, crcOf(row));
    this.#prepared.trim.run(change.revision - MAX_CHANGES);
  }

  /** Reads the changes of one VM, newest first. @param before return only changes below this revision */
  read(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): HistoryItem[] {
    return (this.#prepared.read.all(id, before, limit) as Row[]).map(([revision, , at, type, by, changes]) => {
      return { revision, at: new Date(at).toISOString(), type, by, changes: JSON.parse(changes) as FieldChanges };
    });
  }

  /** Verifies the checksum of each row. @throws DamageError */
  check(): void {
    for (const [...row] of this.#db.prepare(SELECT).raw().iterate() as Iterable<Row>) {
      const crc = row.pop();
      if (crcOf(row) !== crc) throw new DamageError(`the journal fails its checksum (revision ${row[0]})`);
    }
  }

  get #prepared() {
    this.#statements ??= {
      add: this.#db.prepare(
        'INSERT INTO journal (revision, id, at, type, by, changes, crc) VALUES (?, ?, ?, ?, ?, ?, ?)',
      ),
      trim: this.#db.prepare('DELETE FROM journal WHERE revision <= ?'),
      read: this.#db.prepare(`${SELECT} WHERE id = ? AND revision < ? ORDER BY revision DESC LIMIT ?`).raw(),
    };
    return this.#statements;
  }
}

/** Replaces each value that is too large for the journal by its length. */
export function truncateValues(changes: FieldChanges): FieldChanges {
  const truncate = (value: unknown) => {
    const { length } = JSON.stringify(value);
    return length > MAX_VALUE ? `(${length} characters)` : value;
  };
  return Object.fromEntries(
    Object.entries(changes).map(([field, [before, after]]) => [field, [truncate(before), truncate(after)]]),
  );
}
