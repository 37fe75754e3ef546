/**
 * The SQLite file: schema, statements, and the guards against what SQLite does not see. It runs in the store's worker
 * thread, and blocks it.
 *
 * Every row carries a CRC-32 over its key and bytes, and `state` counts rows and revisions in the same transaction as
 * each change; both are checked at start, because a flipped bit can otherwise read as a wrong value without an error.
 *
 * `beats` holds signs of life packed: each VM has a slot of two float64 numbers, and 256 slots fill one database page.
 * A second's beats of a whole fleet are a few page writes instead of a rewritten row a VM.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import Database from 'libsql';
import type { DataDir, Mark } from './data-dir.ts';
import type { Beat, Change, Contents, StoredVm } from './store.ts';

/** "vreg" in ASCII: marks the file as ours for file(1) and for a start in the wrong folder. */
const APPLICATION_ID = 0x76726567;
const SCHEMA_VERSION = 1;
/** 256 slots of two float64 numbers are 4096 bytes: one database page. */
const SLOTS_PER_SHARD = 256;
/** Pages in the log before SQLite moves them into the database: 4 MiB. Larger makes rarer but longer pauses of the worker. */
const CHECKPOINT_PAGES = 1000;

const SCHEMA = `
  CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    registry_id TEXT NOT NULL, revision INTEGER NOT NULL, entries INTEGER NOT NULL, listened REAL NOT NULL, crc INTEGER NOT NULL
  );
  CREATE TABLE vms (
    id TEXT PRIMARY KEY, created INTEGER NOT NULL, revision INTEGER NOT NULL, slot INTEGER NOT NULL UNIQUE,
    body TEXT NOT NULL, crc INTEGER NOT NULL
  );
  CREATE TABLE beats (shard INTEGER PRIMARY KEY, times BLOB NOT NULL, crc INTEGER NOT NULL);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/** What the file says that it should not. */
export class DamageError extends Error {}

interface State {
  registryId: string;
  revision: number;
  entries: number;
  listened: number;
}

type Row = [id: string, created: number, revision: number, slot: number, body: string, crc: number];

export class RegistryDatabase {
  readonly #db: Database.Database;
  #state!: State;
  readonly #slots = new Map<string, number>();
  #free: number[] = [];
  #nextSlot = 0;
  /** Slot n: `[2n]` is lastSeen, `[2n + 1]` is heardAt. */
  #times = new Float64Array(2 * SLOTS_PER_SHARD);
  #statements!: ReturnType<RegistryDatabase['prepare']>;

  /** @param readonly to look at the file; even so SQLite tidies up its log when the file is closed */
  constructor(dir: DataDir, { readonly = false } = {}) {
    this.#db = new Database(dir.database, { readonly, timeout: 0 });
    // The lock comes first: with it a second daemon is refused, and no shared-memory file is needed.
    this.#db.pragma('locking_mode = EXCLUSIVE');
    if (readonly) return;
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
    const state: State = { registryId: newRegistryId(), revision: 0, entries: 0, listened: 0 };
    this.#transaction(() => {
      this.#db.exec(SCHEMA);
      this.#db
        .prepare('INSERT INTO state VALUES (1, ?, ?, ?, ?, ?)')
        .run(state.registryId, state.revision, state.entries, state.listened, crcOfState(state));
    });
  }

  /**
   * Reads everything and checks everything.
   * @throws DamageError saying what is wrong
   */
  load(): Contents {
    const application = this.#count('PRAGMA application_id');
    if (application !== APPLICATION_ID) throw new DamageError('it is not the database of a vreg registry');
    const version = this.#count('PRAGMA user_version');
    if (version !== SCHEMA_VERSION)
      throw new DamageError(`it has schema version ${version}; this vreg knows ${SCHEMA_VERSION}`);
    this.#state = this.#readState();
    this.#readBeats();
    const vms: StoredVm[] = [];
    const rows = this.#db
      .prepare('SELECT id, created, revision, slot, body, crc FROM vms ORDER BY created')
      .raw()
      .iterate();
    for (const row of rows as Iterable<Row>) {
      const [id, created, revision, slot, body, crc] = row;
      if (crcOfRow(id, created, revision, slot, body) !== crc)
        throw new DamageError(`the entry of VM ${JSON.stringify(id)} fails its checksum`);
      if (revision > this.#state.revision)
        throw new DamageError(
          `VM ${JSON.stringify(id)} has revision ${revision}, beyond the registry's ${this.#state.revision}`,
        );
      this.#slots.set(id, slot);
      vms.push({
        id,
        created,
        revision,
        body,
        lastSeen: this.#times[2 * slot] ?? 0,
        heardAt: this.#times[2 * slot + 1] ?? 0,
      });
    }
    if (vms.length !== this.#state.entries)
      throw new DamageError(`it holds ${vms.length} entries and should hold ${this.#state.entries}`);
    const used = new Set(this.#slots.values());
    for (const slot of used) this.#nextSlot = Math.max(this.#nextSlot, slot + 1);
    for (let slot = 0; slot < this.#nextSlot; slot++) if (!used.has(slot)) this.#free.push(slot);
    const { revision, listened, registryId } = this.#state;
    return { vms, revision, listened, registryId };
  }

  /** @throws DamageError with SQLite's own finding */
  quickCheck(): void {
    const [finding] = this.#db.prepare('PRAGMA quick_check').raw().all() as [string][];
    if (finding?.[0] !== 'ok') throw new DamageError(`SQLite finds: ${finding?.[0]}`);
  }

  /** Makes a group of changes durable, all or none. Signs of life among them go along. */
  commit(changes: readonly Change[]): void {
    const { saveVm, removeVm } = this.#prepared();
    const undo: (() => void)[] = [];
    const freed: number[] = [];
    const shards = new Set<number>();
    const state = { ...this.#state };
    try {
      this.#transaction(() => {
        for (const change of changes) {
          if (change.kind === 'remove') {
            const slot = this.#slots.get(change.id);
            state.revision = change.revision;
            if (slot === undefined) continue;
            this.#slots.delete(change.id);
            undo.push(() => this.#slots.set(change.id, slot));
            freed.push(slot);
            removeVm.run(change.id);
            state.entries--;
          } else {
            const { id, created, revision, body } = change.vm;
            let slot = this.#slots.get(id);
            if (slot === undefined) {
              slot = this.#takeSlot(id, undo);
              state.entries++;
            }
            this.#setSlot(slot, change.vm, undo);
            shards.add(Math.floor(slot / SLOTS_PER_SHARD));
            saveVm.run(id, created, revision, slot, body, crcOfRow(id, created, revision, slot, body));
            state.revision = revision;
          }
        }
        this.#saveShards(shards);
        this.#saveState(state);
      });
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
    this.#state = state;
    this.#free.push(...freed);
  }

  /** Makes signs of life durable. One of a VM that has gone is passed over. */
  saveBeats(beats: readonly Beat[], listened: number): void {
    const undo: (() => void)[] = [];
    const shards = new Set<number>();
    for (const beat of beats) {
      const slot = this.#slots.get(beat.id);
      if (slot === undefined) continue;
      this.#setSlot(slot, beat, undo);
      shards.add(Math.floor(slot / SLOTS_PER_SHARD));
    }
    const state = { ...this.#state, listened };
    this.#transaction(() => {
      this.#saveShards(shards);
      this.#saveState(state);
    });
    this.#state = state;
  }

  /** Moves the log into the database and closes, so that the file alone is whole. */
  close(): void {
    this.#db.pragma('wal_checkpoint(TRUNCATE)');
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
      saveState: db.prepare('UPDATE state SET revision = ?, entries = ?, listened = ?, crc = ? WHERE one = 1'),
    };
  }

  #prepared() {
    this.#statements ??= this.prepare();
    return this.#statements;
  }

  #transaction(work: () => void): void {
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      work();
      this.#db.exec('COMMIT');
    } catch (error) {
      // SQLite itself has rolled back after some failures, and then says so.
      if (this.#db.inTransaction) this.#db.exec('ROLLBACK');
      throw error;
    }
  }

  #takeSlot(id: string, undo: (() => void)[]): number {
    const reused = this.#free.pop();
    const slot = reused ?? this.#nextSlot++;
    if (2 * slot >= this.#times.length) {
      const larger = new Float64Array(2 * this.#times.length);
      larger.set(this.#times);
      this.#times = larger;
    }
    this.#slots.set(id, slot);
    undo.push(() => {
      this.#slots.delete(id);
      this.#free.push(slot);
    });
    return slot;
  }

  #setSlot(slot: number, { lastSeen, heardAt }: Pick<Beat, 'lastSeen' | 'heardAt'>, undo: (() => void)[]): void {
    const before = [this.#times[2 * slot]!, this.#times[2 * slot + 1]!] as const;
    undo.push(() => this.#times.set(before, 2 * slot));
    this.#times.set([lastSeen, heardAt], 2 * slot);
  }

  #saveShards(shards: Iterable<number>): void {
    const { saveShard } = this.#prepared();
    const size = 2 * SLOTS_PER_SHARD;
    for (const shard of shards) {
      const bytes = Buffer.from(this.#times.slice(shard * size, (shard + 1) * size).buffer);
      saveShard.run(shard, bytes, crcOfShard(shard, bytes));
    }
  }

  #saveState(state: State): void {
    this.#prepared().saveState.run(state.revision, state.entries, state.listened, crcOfState(state));
  }

  #readState(): State {
    const rows = this.#db.prepare('SELECT registry_id, revision, entries, listened, crc FROM state').raw().all();
    const [row] = rows as [string, number, number, number, number][];
    if (!row) throw new DamageError('its state row is missing');
    const [registryId, revision, entries, listened, crc] = row;
    const state = { registryId, revision, entries, listened };
    if (crcOfState(state) !== crc) throw new DamageError('its state row fails its checksum');
    return state;
  }

  #readBeats(): void {
    const rows = this.#db.prepare('SELECT shard, times, crc FROM beats ORDER BY shard').raw().all() as [
      number,
      Buffer,
      number,
    ][];
    const shards = (rows.at(-1)?.[0] ?? 0) + 1;
    let capacity = this.#times.length;
    while (capacity < shards * 2 * SLOTS_PER_SHARD) capacity *= 2;
    this.#times = new Float64Array(capacity);
    for (const [shard, value, crc] of rows) {
      const bytes = Buffer.from(value);
      if (crcOfShard(shard, bytes) !== crc)
        throw new DamageError(`its record of heartbeats fails its checksum (shard ${shard})`);
      this.#times.set(
        new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8),
        shard * 2 * SLOTS_PER_SHARD,
      );
    }
  }

  #count(sql: string): number {
    const [row] = this.#db.prepare(sql).raw().all() as [number][];
    return row?.[0] ?? 0;
  }
}

/** What a mark beside the database says about it, if anything is wrong. */
export function contradiction(state: Readonly<State>, mark: Mark | undefined): string | undefined {
  if (!mark) return undefined;
  if (mark.registryId !== state.registryId)
    return `it is the database of another registry (${state.registryId}, not ${mark.registryId})`;
  if (state.revision < mark.revision)
    return `it ends at revision ${state.revision}, but revision ${mark.revision} was acknowledged`;
  return undefined;
}

/** Read from the kernel: user-space random pools are copied with a VM's snapshot (Firecracker, random-for-clones). */
function newRegistryId(): string {
  const bytes = Buffer.alloc(16);
  const fd = openSync('/dev/urandom', 'r');
  readSync(fd, bytes);
  closeSync(fd);
  return bytes.toString('hex');
}

function crcOfRow(id: string, created: number, revision: number, slot: number, body: string): number {
  return crc32(JSON.stringify([id, created, revision, slot, body]));
}

function crcOfState({ registryId, revision, entries, listened }: State): number {
  return crc32(JSON.stringify([registryId, revision, entries, listened]));
}

function crcOfShard(shard: number, bytes: Buffer): number {
  return crc32(bytes, shard);
}
