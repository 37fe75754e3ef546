/** The durable journal of changes: who did what to which VM, and when. Bounded, and kept in the transaction of each change. */
import type Database from 'libsql';
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';
import { crcOf, DamageError } from './integrity.ts';
import type { Change } from './store.ts';

/** Changes kept: months of a quiet fleet, some megabytes. */
const KEPT = 10_000;
/** Characters of one value that are kept: a journal tells what was changed, and is no backup of large metadata. */
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
  #statements: { save: Database.Statement; forget: Database.Statement; read: Database.Statement } | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** Within the transaction of the change. */
  add(change: Change): void {
    const { type, at, by, changes } = change.note;
    const id = change.kind === 'put' ? change.vm.id : change.id;
    const row = [change.revision, id, at, type, by, JSON.stringify(changes)];
    this.#prepared.save.run(...row, crcOf(row));
    this.#prepared.forget.run(change.revision - KEPT);
  }

  /** Newest first, before a revision where one is given. */
  of(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): HistoryItem[] {
    return (this.#prepared.read.all(id, before, limit) as Row[]).map(([revision, , at, type, by, changes]) => {
      return { revision, at: new Date(at).toISOString(), type, by, changes: JSON.parse(changes) as FieldChanges };
    });
  }

  /** @throws DamageError */
  check(): void {
    for (const [...row] of this.#db.prepare(SELECT).raw().iterate() as Iterable<Row>) {
      const crc = row.pop();
      if (crcOf(row) !== crc) throw new DamageError(`its journal fails its checksum (revision ${row[0]})`);
    }
  }

  get #prepared() {
    this.#statements ??= {
      save: this.#db.prepare(
        'INSERT INTO journal (revision, id, at, type, by, changes, crc) VALUES (?, ?, ?, ?, ?, ?, ?)',
      ),
      forget: this.#db.prepare('DELETE FROM journal WHERE revision <= ?'),
      read: this.#db.prepare(`${SELECT} WHERE id = ? AND revision < ? ORDER BY revision DESC LIMIT ?`).raw(),
    };
    return this.#statements;
  }
}

/** The changes as they are kept, with each value that is too large replaced by a word of how large it was. */
export function bounded(changes: FieldChanges): FieldChanges {
  const keep = (value: unknown) => {
    const { length } = JSON.stringify(value);
    return length > MAX_VALUE ? `(${length} characters)` : value;
  };
  return Object.fromEntries(
    Object.entries(changes).map(([field, [before, after]]) => [field, [keep(before), keep(after)]]),
  );
}
