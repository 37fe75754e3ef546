/**
 * The SQLite file: schema, statements, and the guards against what SQLite does not see. It runs in the store's worker
 * thread, and blocks it.
 *
 * Every row carries a CRC-32 over its key and bytes, and `state` counts rows and revisions in the same transaction as
 * each change; both are checked at start, because a flipped bit can otherwise read as a wrong value without an error.
 */
import Database from 'libsql';
import type { HistoryItem } from '../../src/protocol/events.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { DataDir } from './data-dir.ts';
import { HeartbeatPages, type Undo } from './heartbeat-pages.ts';
import { crcOf, crcOfBytes, DamageError, NewerError } from './integrity.ts';
import { Journal } from './journal.ts';
import { RECORDS_SCHEMA, Records } from './records.ts';
import { APPLICATION_ID, checkTables, SAVES_SCHEMA, SCHEMA, SCHEMA_VERSION } from './schema.ts';
import { crcOfState, readState, type State } from './state.ts';
import type { Change, Contents, RecordChange, RecordCommit, StoredHeartbeat, StoredVm } from './store.ts';

/** Pages in the log before SQLite moves them into the database: 4 MiB. Larger makes rarer but longer pauses of the worker. */
const CHECKPOINT_PAGES = 1000;

type Row = [id: string, created: number, revision: number, slot: number, body: string, crc: number];

export class RegistryDatabase {
  readonly #db: Database.Database;
  #state!: State;
  readonly #heartbeats = new HeartbeatPages();
  readonly #journal: Journal;
  readonly #records: Records;
  #statements!: ReturnType<RegistryDatabase['prepare']>;

  /** @param lookOnly to change nothing; even so SQLite tidies up its log when the file is closed */
  constructor(dir: DataDir, { lookOnly = false } = {}) {
    this.#db = new Database(dir.database, { timeout: 0 });
    this.#journal = new Journal(this.#db);
    this.#records = new Records(this.#db);
    // The lock comes first: with it a second daemon is refused, and no shared-memory file is needed.
    this.#db.pragma('locking_mode = EXCLUSIVE');
    if (lookOnly) {
      this.#db.pragma('query_only = ON');
      // The first read takes the lock, and makes a log where there is none.
      this.isEmpty();
      return;
    }
    this.#db.pragma('journal_mode = WAL');
    this.#db.pragma('synchronous = FULL');
    this.#db.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    // Takes the lock now, not with the first change.
    this.#db.exec('BEGIN IMMEDIATE; COMMIT;');
  }

  get state(): Readonly<State> {
    return this.#state;
  }

  /** True of a file that no registry was made in yet. */
  isEmpty(): boolean {
    return this.#count("SELECT count(*) FROM sqlite_schema WHERE type = 'table'") === 0;
  }

  create(): void {
    const state: State = { registryId: kernelRandomHex(16), revision: 0, entries: 0, listened: 0, saves: 0 };
    this.#transaction(() => {
      this.#db.exec(SCHEMA);
      this.#db
        .prepare('INSERT INTO state (one, registry_id, revision, entries, listened, crc) VALUES (1, ?, ?, ?, ?, ?)')
        .run(state.registryId, state.revision, state.entries, state.listened, crcOfState(state));
    });
  }

  /** Brings the file of an earlier version, once it is loaded, up to this one's, all or nothing. */
  upgrade(): void {
    if (this.#count('PRAGMA user_version') === SCHEMA_VERSION) return;
    const newCrc = `UPDATE state SET crc = ${crcOfState(this.#state)};`;
    const version = `PRAGMA user_version = ${SCHEMA_VERSION};`;
    this.#transaction(() => this.#db.exec(`${RECORDS_SCHEMA} ${SAVES_SCHEMA} ${newCrc} ${version}`));
  }

  /**
   * Reads everything and checks everything.
   * @throws DamageError saying what is wrong, NewerError
   */
  load(): Contents {
    const application = this.#count('PRAGMA application_id');
    if (application !== APPLICATION_ID) throw new DamageError('it is not the database of a vreg registry');
    const version = this.#count('PRAGMA user_version');
    const known = `it has schema version ${version}; this vreg knows 1 to ${SCHEMA_VERSION}`;
    if (version > SCHEMA_VERSION) throw new NewerError(known);
    if (version < 1) throw new DamageError(known);
    checkTables(this.#db, new Database(':memory:'));
    const records = version === 1 ? [] : this.#records.load();
    this.#state = readState(this.#db, version);
    this.#readHeartbeats();
    this.#journal.check();
    const vms: StoredVm[] = [];
    const rows = this.#db
      .prepare('SELECT id, created, revision, slot, body, crc FROM vms ORDER BY created')
      .raw()
      .iterate();
    for (const row of rows as Iterable<Row>) {
      const [id, created, revision, slot, body, crc] = row;
      if (crcOf([id, created, revision, slot, body]) !== crc)
        throw new DamageError(`the entry of VM ${JSON.stringify(id)} fails its checksum`);
      if (revision > this.#state.revision)
        throw new DamageError(
          `VM ${JSON.stringify(id)} has revision ${revision}, beyond the registry's ${this.#state.revision}`,
        );
      if (!this.#heartbeats.loadSlot(id, slot))
        throw new DamageError(`the heartbeats of VM ${JSON.stringify(id)} are missing`);
      vms.push({ id, created, revision, body, ...this.#heartbeats.timesOf(slot) });
    }
    if (vms.length !== this.#state.entries)
      throw new DamageError(`it holds ${vms.length} entries and should hold ${this.#state.entries}`);
    this.#heartbeats.findFree();
    const { revision, listened, registryId } = this.#state;
    return { vms, revision, records, listened, registryId };
  }

  /** Looks at the indexes, too: by a damaged one a later change would miss its row. @throws DamageError as SQLite says */
  integrityCheck(): void {
    const [finding] = this.#db.prepare('PRAGMA integrity_check').raw().all() as [string][];
    if (finding?.[0] !== 'ok') throw new DamageError(`SQLite finds: ${finding?.[0]}`);
  }

  /** Makes a group of commits durable, all or none. */
  commit(commits: readonly (Change | RecordCommit)[]): void {
    const { saveVm, removeVm } = this.#prepared();
    const state = { ...this.#state };
    const freed: (() => void)[] = [];
    this.#transaction((undo) => {
      for (const change of commits) {
        if (change.kind === 'records') {
          this.#records.save(change.records);
          state.saves++;
          continue;
        }
        state.revision = change.revision;
        if (change.kind === 'remove') {
          const free = this.#heartbeats.drop(change.id, undo);
          if (free) {
            freed.push(free);
            removeVm.run(change.id);
            state.entries--;
          }
        } else {
          const { id, created, revision, body } = change.vm;
          const { slot, isNew } = this.#heartbeats.take(id, undo);
          if (isNew) state.entries++;
          this.#heartbeats.set(slot, change.vm, undo);
          // The clock goes on from here after a restart; from less, this VM would have been heard in the future.
          state.listened = Math.max(state.listened, change.vm.heardAt);
          saveVm.run(id, created, revision, slot, body, crcOf([id, created, revision, slot, body]));
        }
        this.#journal.add(change);
        if (change.records) this.#records.save(change.records);
      }
      this.#save(state, undo);
    });
    for (const free of freed) free();
  }

  /** Makes signs of life durable, and what came with them. One of a VM that has gone is passed over. */
  saveHeartbeats(heartbeats: readonly StoredHeartbeat[], listened: number, records: readonly RecordChange[]): void {
    this.#transaction((undo) => {
      this.#records.save(records);
      for (const heartbeat of heartbeats) {
        const slot = this.#heartbeats.slotOf(heartbeat.id);
        if (slot !== undefined) this.#heartbeats.hear(slot, heartbeat);
      }
      const { listened: before, saves } = this.#state;
      const isCounted = records.length > 0 ? 1 : 0;
      this.#save({ ...this.#state, listened: Math.max(listened, before), saves: saves + isCounted }, undo);
    });
  }

  /** Newest first, before a revision where one is given. */
  history(id: string, limit: number, before?: number): HistoryItem[] {
    this.#rollBack();
    return this.#journal.of(id, limit, before);
  }

  /** Copies everything, as of now, into a new file. */
  backup(path: string): void {
    this.#rollBack();
    this.#db.prepare('VACUUM INTO ?').run(path);
  }

  /** Moves the log into the database and closes, so that the file alone is whole. On a full disk the log stays. */
  close(): void {
    try {
      this.#db.pragma('wal_checkpoint(TRUNCATE)');
    } catch {
      // The log has all of it, and the next start reads it.
    }
    this.#db.close();
  }

  private prepare() {
    const db = this.#db;
    return {
      saveVm: db.prepare(
        `INSERT INTO vms (id, created, revision, slot, body, crc) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET
           created = excluded.created, revision = excluded.revision, slot = excluded.slot, body = excluded.body, crc = excluded.crc`,
      ),
      removeVm: db.prepare('DELETE FROM vms WHERE id = ?'),
      saveShard: db.prepare('INSERT OR REPLACE INTO beats (shard, times, crc) VALUES (?, ?, ?)'),
      saveState: db.prepare(
        'UPDATE state SET revision = ?, entries = ?, listened = ?, saves = ?, crc = ? WHERE one = 1',
      ),
    };
  }

  #prepared() {
    this.#statements ??= this.prepare();
    return this.#statements;
  }

  /** All or nothing, on the disk and in memory: when `work` or the commit fails, what it left in `undo` is run. */
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
        // Whoever comes next tries again, before anything else.
      }
      throw error;
    }
  }

  /** Ends what a failure left open, if the disk let it. SQLite itself has rolled back after some, and then says so. */
  #rollBack(): void {
    if (this.#db.inTransaction) this.#db.exec('ROLLBACK');
  }

  #save(state: State, undo: Undo): void {
    const { saveShard, saveState } = this.#prepared();
    for (const { shard, bytes } of this.#heartbeats.takeDirty(undo))
      saveShard.run(shard, bytes, crcOfBytes(shard, bytes));
    saveState.run(state.revision, state.entries, state.listened, state.saves, crcOfState(state));
    const before = this.#state;
    undo.push(() => {
      this.#state = before;
    });
    this.#state = state;
  }

  #readHeartbeats(): void {
    const rows = this.#db.prepare('SELECT shard, times, crc FROM beats ORDER BY shard').raw().all() as [
      number,
      Buffer,
      number,
    ][];
    for (const [shard, value, crc] of rows) {
      const bytes = Buffer.from(value);
      if (crcOfBytes(shard, bytes) !== crc)
        throw new DamageError(`its record of heartbeats fails its checksum (shard ${shard})`);
      this.#heartbeats.loadShard(shard, bytes);
    }
  }

  #count(sql: string): number {
    const [row] = this.#db.prepare(sql).raw().all() as [number][];
    return row?.[0] ?? 0;
  }
}
