/**
 * The journal: time, author, VM and changed fields of the last changes. A change and its row are committed together. The number
 * of rows is limited: the last {@link JOURNAL_LENGTH} changes, and up to {@link TRIM_STEP} older ones.
 */
import type Database from 'libsql';
import { type ChangeType, type FieldChanges, JOURNAL_LENGTH } from '../../src/protocol/events.ts';
import { formatPosition, type Position } from '../../src/protocol/position.ts';
import { crcOf, DamageError } from './integrity.ts';
import type { Change, JournalItem, JournalNote, LastChange } from './store.ts';

/**
 * Maximum length of a value in the journal, in characters of JSON. The journal shows changes; it is not a backup of large
 * metadata.
 */
const MAX_VALUE = 4096;

/** Number of changes that are removed together. Removing one rewrites two pages of the database, and so does removing 100. */
export const TRIM_STEP = 100;

export const JOURNAL_SCHEMA = `
  CREATE TABLE journal (
    revision INTEGER PRIMARY KEY, id TEXT NOT NULL, at INTEGER NOT NULL, type TEXT NOT NULL, by TEXT NOT NULL,
    changes TEXT NOT NULL, crc INTEGER NOT NULL, tag TEXT
  );
  CREATE INDEX journal_of_vm ON journal (id, revision);
`;

const COLUMNS = 'revision, id, at, type, by, changes, crc';

/** The values of a change that its checksum covers. A store of schema 3 has no tags. */
type Row = [revision: number, id: string, at: number, type: JournalNote['type'], by: string, changes: string];
type CheckedRow = [...Row, crc: number, tag: string | null];

/** Id in the row of a change to access tokens. No VM has this id. */
const NO_VM = '';

/** A change as the journal stores it. */
export interface StoredNote extends Position {
  /** Id of the VM; empty for a change of access tokens. */
  id: string;
  note: JournalNote<string>;
}

export class Journal {
  readonly #db: Database.Database;
  #isTagged = true;
  #write: { add: Database.Statement; trim: Database.Statement } | undefined;
  #read: Database.Statement | undefined;

  constructor(db: Database.Database) {
    this.#db = db;
  }

  /** False for a store of schema 3, whose journal has no tags: it can then only be read. */
  set isTagged(isTagged: boolean) {
    this.#isTagged = isTagged;
    this.#write = undefined;
    this.#read = undefined;
  }

  /** Adds a change. Must be called inside the transaction of the change. */
  add(change: Change<string>): void {
    const id = change.kind === 'put' ? change.vm.id : change.kind === 'remove' ? change.id : NO_VM;
    this.addNote({ ...change, id });
  }

  /** Adds a change of another engine. Must be called inside a transaction. */
  addNote({ id, revision, tag, note: { type, at, by, changes } }: StoredNote): void {
    const row: Row = [revision, id, at, type, by, changes];
    this.#write ??= {
      add: this.#db.prepare(`INSERT INTO journal (${COLUMNS}, tag) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`),
      // Revisions of a registry that was moved from etcd have gaps.
      trim: this.#db.prepare(
        'DELETE FROM journal WHERE revision <= (SELECT revision FROM journal ORDER BY revision DESC LIMIT 1 OFFSET ?)',
      ),
    };
    this.#write.add.run(...row, crcOf([...row, tag]), tag);
  }

  /**
   * Removes the oldest changes if there are too many, once per {@link TRIM_STEP} changes. Must be called inside the transaction
   * of the changes.
   * @param before last revision before the transaction
   * @param revision last revision
   */
  trim(before: number, revision: number): void {
    if (Math.floor(before / TRIM_STEP) < Math.floor(revision / TRIM_STEP)) this.#write?.trim.run(JOURNAL_LENGTH);
  }

  /** Stores the tag of an earlier change, if the journal still contains that change. Call it inside a transaction. */
  setTag({ revision, tag }: Position): void {
    const [found] = this.#db.prepare(`SELECT ${COLUMNS} FROM journal WHERE revision = ?`).raw().all(revision);
    if (!found) return;
    const row = (found as unknown[]).slice(0, -1);
    this.#db.prepare('UPDATE journal SET crc = ?, tag = ? WHERE revision = ?').run(crcOf([...row, tag]), tag, revision);
  }

  /** Reads the changes to a VM, newest first. @param before return only changes with a lower revision */
  read(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): JournalItem[] {
    this.#read ??= this.#db
      .prepare(`${this.#select} WHERE id = ? AND revision < ? ORDER BY revision DESC LIMIT ?`)
      .raw();
    const rows = this.#read.all(id, before, limit) as CheckedRow[];
    return rows.map(([revision, , at, type, by, changes, , tag]) => ({
      revision,
      ...(tag === null ? {} : { position: formatPosition({ revision, tag }) }),
      at: new Date(at).toISOString(),
      type: type as ChangeType,
      by,
      changes: JSON.parse(changes) as FieldChanges,
    }));
  }

  /** Reads the last change to each VM within a range of revisions, see {@link Store.lastChanges}. */
  lastChanges(after: number, until: number): LastChange[] | undefined {
    const [oldest] = this.#db.prepare('SELECT min(revision) FROM journal').raw().all() as [number | null][];
    if (after < until && (oldest?.[0] ?? Number.POSITIVE_INFINITY) > after + 1) return undefined;
    const where = "WHERE revision > ? AND revision <= ? AND type <> 'token' ORDER BY revision";
    const rows = this.#db.prepare(`${this.#select} ${where}`).raw().iterate(after, until) as Iterable<CheckedRow>;
    const last = new Map<string, LastChange>();
    for (const [revision, id, at, type, by, changes, , tag] of rows) {
      if (tag === null) return undefined;
      // Delete the key first, so that the map is in the order of the last changes.
      last.delete(id);
      last.set(id, { revision, tag, id, at, type: type as ChangeType, by, removed: removedTexts(type, changes) });
    }
    return [...last.values()];
  }

  /** Reads all changes, oldest first, and verifies their checksums. @throws DamageError */
  *rows(): Generator<{ row: Row; tag: string | null }> {
    const rows = this.#db.prepare(`${this.#select} ORDER BY revision`).raw().iterate() as Iterable<CheckedRow>;
    for (const [...values] of rows) {
      const tag = values.pop() as string | null;
      const crc = values.pop();
      const row = values as unknown as Row;
      if (crcOf(tag === null ? row : [...row, tag]) !== crc)
        throw new DamageError(`the journal fails its checksum (revision ${row[0]})`);
      yield { row, tag };
    }
  }

  get #select(): string {
    return `SELECT ${COLUMNS}, ${this.#isTagged ? 'tag' : 'NULL'} FROM journal`;
  }
}

/**
 * @param changes JSON of a change
 * @returns the text fields of a removed VM; the journal may have truncated other values
 */
export function removedTexts(type: JournalNote['type'], changes: string): Record<string, string> {
  if (type !== 'deregistered') return {};
  const fields = Object.entries(JSON.parse(changes) as FieldChanges);
  const texts = fields.flatMap(([field, [before]]) => (typeof before === 'string' ? [[field, before] as const] : []));
  return Object.fromEntries(texts);
}

/**
 * Serializes the changed fields of a change once, for the worker and for the journal. Replaces each value that is too large for
 * the journal with its length.
 */
export function withJournalText(change: Change): Change<string> {
  return { ...change, note: { ...change.note, changes: journalText(change.note.changes) } };
}

function journalText(changes: FieldChanges): string {
  const fields = Object.entries(changes).map(
    ([field, [before, after]]) => `${JSON.stringify(field)}:[${valueText(before)},${valueText(after)}]`,
  );
  return `{${fields.join(',')}}`;
}

function valueText(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > MAX_VALUE ? `"(${text.length} characters)"` : text;
}
