/** What the registry remembers besides VMs and changes: rows of JSON under a kind and a key, each with its checksum. */
import type Database from 'libsql';
import { crcOf, DamageError } from './integrity.ts';
import type { RecordChange, StoredRecord } from './store.ts';

export const RECORDS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, key)
  ) WITHOUT ROWID;
`;

type Row = [kind: StoredRecord['kind'], key: string, body: string, crc: number];

export class Records {
  readonly #db: Database.Database;
  #statements: { save: Database.Statement; remove: Database.Statement } | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** @throws DamageError */
  load(): StoredRecord[] {
    const rows = this.#db.prepare('SELECT kind, key, body, crc FROM records').raw().all() as Row[];
    return rows.map(([kind, key, body, crc]) => {
      if (crcOf([kind, key, body]) !== crc)
        throw new DamageError(`its ${kind} record of ${JSON.stringify(key)} fails its checksum`);
      return { kind, key, body };
    });
  }

  /** Within a transaction. */
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
