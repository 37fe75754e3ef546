/**
 * The SQLite database: its statements, and checks for damage that SQLite does not detect. Its calls block, so it runs in the
 * worker thread of the store.
 *
 * Every row has a CRC-32 of its key and values, and the state row counts VMs and revisions in the same transaction as each
 * change. Both are checked at start, because SQLite can read a flipped bit as a wrong value without an error.
 */
import Database from 'libsql';
import type { Position } from '../../src/protocol/position.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { DataDir } from './data-dir.ts';
import { type HeartbeatBatch, heartbeatsOf } from './heartbeat-batch.ts';
import { HeartbeatPages, type Undo } from './heartbeat-pages.ts';
import { crcOf, crcOfBytes, DamageError, GoneError, NewerError, NOT_A_REGISTRY, OlderError } from './integrity.ts';
import { Journal, type StoredNote } from './journal.ts';
import {
  APPLICATION_ID,
  checkTables,
  crcOfState,
  initialTag,
  OLDEST_VERSION,
  RecordTable,
  readState,
  SCHEMA,
  SCHEMA_VERSION,
  type State,
  UPGRADE,
  UpgradeTag,
} from './schema.ts';
import type { Change, Contents, JournalItem, LastChange, RecordChange, StoredRecord, StoredVm } from './store.ts';
import { decodeBatch, encodeBatch, findId, readUntaggedVms, readVms, type VmBatch } from './vm-batch.ts';

/**
 * Number of pages in the write-ahead log (4 MiB) at which SQLite moves them into the database. A higher number makes the worker
 * pause less often but for longer.
 */
const CHECKPOINT_PAGES = 1000;

const TRIAL = { kind: 'trial', key: '' } as const;
/** Four pages, as many as a registration writes: heartbeats alone can be saved with less space. */
const TRIAL_BODY = 'x'.repeat(16_384);

/** VMs per read of their slots. */
const SLOTS_PER_READ = 4096;

/** Receives what {@link RegistryDatabase.load} has checked. */
export interface Receiver {
  /** @param json of an {@link EncodedBatch}, without newlines, in pieces */
  vms(json: Buffer[]): void;
  records(records: StoredRecord[]): void;
}

/** Contents of another engine, in part. */
export interface Filling {
  vms?: readonly StoredVm[];
  records?: readonly StoredRecord[];
  notes?: readonly StoredNote[];
  /** With the last part. Its revision is higher than all others. */
  end?: Pick<CheckedState, 'registryId' | 'revision' | 'tag' | 'listened'>;
}

/** The state row of a checked database. The tag of a store of schema 3 is computed. */
export type CheckedState = State & { tag: string };

export interface Loaded {
  state: CheckedState;
  contents: Omit<Contents, 'vms' | 'records'>;
}

export class RegistryDatabase {
  readonly #db: Database.Database;
  /** In a store of schema 3, the tag is computed at start, and stored with the first change. */
  #state!: CheckedState;
  /** True if the store has the current schema; false for schema 3, which has no tags. */
  #isTagged = true;
  readonly #heartbeats = new HeartbeatPages();
  #hasSlots = false;
  readonly #journal: Journal;
  readonly #records: RecordTable;
  #vmStatements: ReturnType<RegistryDatabase['prepareVms']> | undefined;
  #stateStatements: ReturnType<RegistryDatabase['prepareState']> | undefined;

  /** @param readOnly true to change nothing, except that SQLite moves its write-ahead log into the database on close */
  constructor(dir: DataDir, { readOnly = false } = {}) {
    this.#db = new Database(dir.database, { timeout: 0 });
    this.#journal = new Journal(this.#db);
    this.#records = new RecordTable(this.#db);
    // Set the lock mode first. It prevents a second daemon from opening the database, and makes a shared-memory file
    // unnecessary.
    this.#db.pragma('locking_mode = EXCLUSIVE');
    if (readOnly) {
      this.#db.pragma('query_only = ON');
      // The first read acquires the lock, and creates a log if there is none.
      this.isEmpty();
      return;
    }
    this.#db.pragma('journal_mode = WAL');
    this.#db.pragma('synchronous = FULL');
    this.#db.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    // Acquire the lock now instead of with the first change.
    this.#db.exec('BEGIN IMMEDIATE; COMMIT;');
  }

  get state(): Readonly<State> {
    return this.#state;
  }

  /** @returns true if the file has no tables yet */
  isEmpty(): boolean {
    return this.#queryNumber("SELECT count(*) FROM sqlite_schema WHERE type = 'table'") === 0;
  }

  create(): void {
    const registryId = kernelRandomHex(16);
    const state = { registryId, revision: 0, entries: 0, listened: 0, saves: 0, tag: initialTag(registryId) };
    this.#transaction(() => {
      this.#db.exec(SCHEMA);
      this.#db
        .prepare(
          'INSERT INTO state (one, registry_id, revision, entries, listened, crc, tag) VALUES (1, ?, ?, ?, ?, ?, ?)',
        )
        .run(registryId, state.revision, state.entries, state.listened, crcOfState(state), state.tag);
    });
  }

  /**
   * Reads and checks all tables.
   * @param receive called with all VMs and records. If the method throws, discard them
   * @throws DamageError, OlderError, NewerError
   */
  load({ vms: receiveVms, records: receiveRecords }: Receiver): Loaded {
    this.#checkSchema();
    for (const records of this.#records.batches()) receiveRecords(records);
    const state = readState(this.#db, this.#isTagged);
    this.#loadHeartbeats();
    const upgrade = this.#isTagged ? undefined : new UpgradeTag(state);
    const positions: Position[] = [];
    for (const { row, tag } of this.#journal.rows()) {
      if (tag !== null) positions.push({ revision: row[0], tag });
      upgrade?.addChange(row);
    }
    let entries = 0;
    // The tag of an upgrade depends on the order. Otherwise, SQLite must not sort, because it would do so in memory.
    for (const batch of upgrade ? readUntaggedVms(this.#db) : readVms(this.#db)) {
      this.#checkBatch(batch, state);
      entries += batch.count;
      // Also ends a loop over rows that a damaged file repeats.
      if (entries > state.entries) break;
      const json = encodeBatch(batch, (slot) => this.#heartbeats.timesOf(slot));
      if (upgrade) for (const vm of decodeBatch(JSON.parse(Buffer.concat(json).toString()))) upgrade.addVm(vm);
      receiveVms(json);
    }
    if (entries !== state.entries) throw new DamageError(`it has ${entries} entries but should have ${state.entries}`);
    const { revision, listened, registryId } = state;
    const tag = state.tag ?? (revision === 0 ? initialTag(registryId) : upgrade!.tag);
    this.#state = { ...state, tag };
    if (positions[0]?.revision === 1) positions.unshift({ revision: 0, tag: initialTag(registryId) });
    const last = positions.at(-1);
    if (last?.revision !== revision) positions.push({ revision, tag });
    else if (last.tag !== tag) throw new DamageError('the journal and the state row name different last changes');
    return { state: this.#state, contents: { revision, positions, listened, registryId } };
  }

  /** @throws DamageError naming a VM with a revision that does not exist yet, or without heartbeats */
  #checkBatch(batch: VmBatch, { revision }: State): void {
    if (batch.newest > revision) {
      const id = findId(batch, (found) => found > revision);
      throw new DamageError(`VM ${id} has revision ${batch.newest}, but the registry ends at ${revision}`);
    }
    if (batch.slots.every((slot) => this.#heartbeats.hasPageOf(slot))) return;
    const id = findId(batch, (_, slot) => !this.#heartbeats.hasPageOf(slot));
    throw new DamageError(`the heartbeats of VM ${id} are missing`);
  }

  /**
   * Continues with a database that another process has just loaded.
   * @param checked the state that it found
   * @throws GoneError if the database has changed since then
   */
  resume(checked: CheckedState): void {
    this.#setTagged(this.#queryNumber('PRAGMA user_version') === SCHEMA_VERSION);
    const state = { ...readState(this.#db, this.#isTagged) };
    state.tag ??= checked.tag;
    if (crcOfState(state) !== crcOfState(checked)) throw new GoneError('the database has changed since it was checked');
    this.#state = { ...state, tag: checked.tag };
    this.#loadHeartbeats();
  }

  /**
   * Reads the slots of all VMs, which takes a second for a million VMs. The first change or save does it otherwise.
   * @throws errors of SQLite
   */
  loadSlots(): void {
    if (this.#hasSlots) return;
    this.#heartbeats.clearSlots();
    const next = this.#db
      .prepare(
        `SELECT max(rowid), json_group_array(id), json_group_array(slot)
         FROM (SELECT rowid, id, slot FROM vms WHERE rowid > ? ORDER BY rowid LIMIT ${SLOTS_PER_READ})`,
      )
      .raw();
    for (let after = 0; ; ) {
      const [last, ids, slots] = next.get(after) as [last: number | null, ids: string, slots: string];
      if (last === null) break;
      after = last;
      const found = JSON.parse(slots) as number[];
      for (const [n, id] of (JSON.parse(ids) as string[]).entries()) this.#heartbeats.loadSlot(id, found[n]!);
    }
    this.#heartbeats.findFreeSlots();
    this.#hasSlots = true;
  }

  #checkSchema(): void {
    const application = this.#queryNumber('PRAGMA application_id');
    if (application !== APPLICATION_ID) throw new DamageError(NOT_A_REGISTRY);
    const version = this.#queryNumber('PRAGMA user_version');
    const found = `it has schema version ${version}; this vreg reads version ${OLDEST_VERSION} or ${SCHEMA_VERSION}`;
    if (version > SCHEMA_VERSION) throw new NewerError(found);
    if (version < 1) throw new DamageError(found);
    if (version < OLDEST_VERSION) throw new OlderError(found);
    checkTables(this.#db, new Database(':memory:'));
    this.#setTagged(version === SCHEMA_VERSION);
  }

  #setTagged(isTagged: boolean): void {
    this.#isTagged = isTagged;
    this.#journal.isTagged = isTagged;
    this.#stateStatements = undefined;
  }

  /** Adds tags to a store of schema 3. Call it inside the transaction of its first change. */
  #upgrade(undo: Undo): void {
    if (this.#isTagged) return;
    undo.push(() => this.#setTagged(false));
    this.#db.exec(UPGRADE);
    this.#setTagged(true);
    this.#journal.setTag(this.#state);
  }

  /**
   * Runs SQLite's integrity check, which includes the indexes: a change through a damaged index would miss its row.
   * @throws DamageError with SQLite's message
   */
  integrityCheck(): void {
    const [finding] = this.#db.prepare('PRAGMA integrity_check').raw().all() as [string][];
    if (finding?.[0] !== 'ok') throw new DamageError(`SQLite reports: ${finding?.[0]}`);
  }

  /**
   * Makes a group of changes durable: all of them or none.
   * @throws Error if the previous tag of a change is not the tag of the change before it: its tag would identify another
   * history
   */
  commit(changes: readonly Change<string>[]): void {
    this.loadSlots();
    const state = { ...this.#state };
    /** Functions that free the slots of removed VMs. */
    const freeSlots: (() => void)[] = [];
    this.#transaction((undo) => {
      this.#upgrade(undo);
      for (const change of changes) {
        const { revision, tag, previousTag } = change;
        if (previousTag !== state.tag)
          throw new Error(`change ${revision} follows tag ${previousTag}, but the store ends with tag ${state.tag}`);
        if (change.kind === 'put') this.#put(change.vm, state, undo);
        else if (change.kind === 'remove') freeSlots.push(this.#remove(change.id, state, undo));
        else state.saves++;
        state.revision = revision;
        state.tag = tag;
        this.#journal.add(change);
        if (change.records) this.#records.save(change.records);
      }
      this.#journal.trim(this.#state.revision, state.revision);
      this.#save(state, undo);
    });
    for (const free of freeSlots) free();
  }

  /** Adds contents of another engine to a new database. */
  fill({ vms = [], records = [], notes = [], end }: Filling): void {
    this.loadSlots();
    const state = { ...this.#state };
    this.#transaction((undo) => {
      for (const vm of vms) this.#put(vm, state, undo);
      this.#records.save(records);
      for (const note of notes) this.#journal.addNote(note);
      if (end) {
        const { registryId, revision, tag } = end;
        Object.assign(state, { registryId, revision, tag, listened: Math.max(state.listened, end.listened) });
        this.#db.prepare('UPDATE state SET registry_id = ?').run(registryId);
      }
      this.#save(state, undo);
    });
  }

  #put({ id, created, revision, tag, body, ...times }: StoredVm, state: State, undo: Undo): void {
    const { slot, isNew } = this.#heartbeats.assignSlot(id, undo);
    if (isNew) state.entries++;
    this.#heartbeats.setTimes(slot, times, undo);
    // After a restart, the listening clock continues from this time. With an earlier one, the sign of life would be in the
    // future.
    state.listened = Math.max(state.listened, times.heardAt);
    const crc = crcOf([id, created, revision, slot, body, tag]);
    this.#preparedVms.saveVm.run(id, created, revision, slot, body, crc, tag);
  }

  /** @returns a function that frees the slot of the VM; call it after the commit */
  #remove(id: string, state: State, undo: Undo): () => void {
    const freeSlot = this.#heartbeats.removeSlot(id, undo);
    if (!freeSlot) return () => {};
    state.entries--;
    this.#preparedVms.removeVm.run(id);
    return freeSlot;
  }

  /** Makes heartbeats and records durable. Ignores heartbeats of removed VMs. */
  saveHeartbeats(batches: readonly HeartbeatBatch[], listened: number, records: readonly RecordChange[]): void {
    this.loadSlots();
    this.#transaction((undo) => {
      this.#records.save(records);
      const state = { ...this.#state, saves: this.#state.saves + (records.length > 0 ? 1 : 0) };
      state.listened = Math.max(state.listened, listened);
      for (const heartbeat of heartbeatsOf(batches)) {
        const slot = this.#heartbeats.slotOf(heartbeat.id);
        if (slot === undefined) continue;
        this.#heartbeats.touch(slot, heartbeat);
        // As in a change: the heartbeat may be newer than the listening time of the save.
        state.listened = Math.max(state.listened, heartbeat.heardAt);
      }
      this.#save(state, undo);
    });
  }

  /** Writes a record and removes it. A record that a crash leaves behind has no meaning, and the next call removes it. */
  tryWrite(): void {
    this.saveHeartbeats([], 0, [{ ...TRIAL, body: TRIAL_BODY }]);
    this.saveHeartbeats([], 0, [{ ...TRIAL, body: undefined }]);
  }

  /** Reads the changes to a VM, newest first. @param before return only changes with a lower revision */
  history(id: string, limit: number, before?: number): JournalItem[] {
    this.#rollBack();
    return this.#journal.read(id, limit, before);
  }

  lastChanges(after: number, until: number): LastChange[] | undefined {
    this.#rollBack();
    return this.#journal.lastChanges(after, until);
  }

  /** Copies the database to a new file. */
  backup(path: string): void {
    this.#rollBack();
    this.#db.prepare('VACUUM INTO ?').run(path);
  }

  /**
   * Moves the write-ahead log into the database, so that the file is complete without the log, and closes the database. If the
   * disk is full, the log remains.
   */
  close(): void {
    try {
      this.#db.pragma('wal_checkpoint(TRUNCATE)');
    } catch {
      // The write-ahead log is intact; the next start reads it.
    }
    this.#db.close();
  }

  private prepareVms() {
    return {
      saveVm: this.#db.prepare(
        `INSERT INTO vms (id, created, revision, slot, body, crc, tag) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET created = excluded.created, revision = excluded.revision, slot = excluded.slot,
           body = excluded.body, crc = excluded.crc, tag = excluded.tag`,
      ),
      removeVm: this.#db.prepare('DELETE FROM vms WHERE id = ?'),
    };
  }

  private prepareState() {
    const columns = ['revision', 'entries', 'listened', 'saves', 'crc', ...(this.#isTagged ? ['tag'] : [])];
    return {
      // REPLACE would delete the row first, and thus also write the free list.
      savePage: this.#db.prepare(
        `INSERT INTO beats (shard, times, crc) VALUES (?, ?, ?)
         ON CONFLICT (shard) DO UPDATE SET times = excluded.times, crc = excluded.crc`,
      ),
      saveState: this.#db.prepare(
        `UPDATE state SET ${columns.map((column) => `${column} = ?`).join(', ')} WHERE one = 1`,
      ),
    };
  }

  get #preparedVms() {
    this.#vmStatements ??= this.prepareVms();
    return this.#vmStatements;
  }

  /**
   * Runs a transaction on the disk and in memory. If `work` or the commit fails, runs the steps that `work` has added to
   * `undo`.
   */
  #transaction(work: (undo: Undo) => void): void {
    const undo: Undo = [];
    this.#rollBack();
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      work(undo);
      this.#db.exec('COMMIT');
    } catch (error) {
      for (const step of undo.reverse()) step();
      try {
        this.#rollBack();
      } catch {
        // The next transaction begins with another attempt.
      }
      throw error;
    }
  }

  /** Rolls back a transaction that a failure left open. After some failures, SQLite has already rolled back. */
  #rollBack(): void {
    if (this.#db.inTransaction) this.#db.exec('ROLLBACK');
  }

  #save(state: State & { tag: string }, undo: Undo): void {
    this.#stateStatements ??= this.prepareState();
    const { savePage, saveState } = this.#stateStatements;
    for (const { page, bytes } of this.#heartbeats.takeDirtyPages(undo))
      savePage.run(page, bytes, crcOfBytes(page, bytes));
    const tag = this.#isTagged ? [state.tag] : [];
    const crc = crcOfState({ ...state, tag: tag[0] });
    saveState.run(state.revision, state.entries, state.listened, state.saves, crc, ...tag);
    const before = this.#state;
    undo.push(() => {
      this.#state = before;
    });
    this.#state = state;
  }

  #loadHeartbeats(): void {
    const rows = this.#db.prepare('SELECT shard, times, crc FROM beats ORDER BY shard').raw().all() as [
      number,
      Buffer,
      number,
    ][];
    for (const [page, value, crc] of rows) {
      const bytes = Buffer.from(value);
      if (crcOfBytes(page, bytes) !== crc) throw new DamageError(`heartbeat page ${page} fails its checksum`);
      this.#heartbeats.loadPage(page, bytes);
    }
  }

  #queryNumber(sql: string): number {
    const [row] = this.#db.prepare(sql).raw().all() as [number][];
    return row?.[0] ?? 0;
  }
}
