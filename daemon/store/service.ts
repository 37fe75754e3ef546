/** The database and its mark as the store's worker serves them: one request after the other. */
import { closeSync, existsSync, openSync } from 'node:fs';
import { type DataDir, type Mark, MarkFile, readMark } from './data-dir.ts';
import { RegistryDatabase } from './database.ts';
import { DamageError } from './integrity.ts';
import { OwnFiles } from './own-files.ts';
import type { Change, Contents, RecordChange, RecordCommit, StoredHeartbeat } from './store.ts';

export type Request =
  | { kind: 'open' }
  | { kind: 'commit'; commits: readonly (Change | RecordCommit)[] }
  | { kind: 'heartbeats'; heartbeats: readonly StoredHeartbeat[]; listened: number; records: readonly RecordChange[] }
  | { kind: 'history'; id: string; limit: number; before?: number | undefined }
  | { kind: 'backup'; path: string }
  | { kind: 'close' };

export class StoreService {
  readonly #dir: DataDir;
  #database!: RegistryDatabase;
  #mark!: MarkFile;
  readonly #files = new OwnFiles();

  constructor(dir: DataDir) {
    this.#dir = dir;
  }

  /** Does what is asked, all or nothing. @throws the errors of SQLite and of the system, DamageError, NewerError, GoneError */
  handle(request: Request): unknown {
    switch (request.kind) {
      case 'open':
        return this.#open();
      case 'commit':
        this.#files.check();
        this.#database.commit(request.commits);
        this.#mark.advance(this.#durable());
        return undefined;
      case 'heartbeats':
        this.#files.check();
        this.#database.saveHeartbeats(request.heartbeats, request.listened, request.records);
        if (request.records.length > 0) this.#mark.advance(this.#durable());
        return undefined;
      case 'history':
        return this.#database.history(request.id, request.limit, request.before);
      case 'backup':
        this.#database.backup(request.path);
        return undefined;
      case 'close':
        try {
          this.#database.close();
        } finally {
          this.#mark.close();
        }
        return undefined;
    }
  }

  #open(): Contents {
    const { database: path, log } = this.#dir;
    // Known by its number before it is opened, so that it is there by then.
    if (!existsSync(path)) closeSync(openSync(path, 'a', 0o600));
    this.#files.add(path);
    const database = new RegistryDatabase(this.#dir);
    this.#database = database;
    if (database.isEmpty()) {
      // It was there when the start looked.
      if (readMark(this.#dir)) throw new DamageError('it is empty, but a revision was acknowledged');
      database.create();
    }
    this.#files.add(log);
    const contents = database.load();
    // Now that it is known to be ours, and whole.
    database.upgrade();
    this.#mark = new MarkFile(this.#dir, this.#durable());
    this.#files.check();
    return contents;
  }

  #durable(): Mark {
    const { registryId, revision, saves } = this.#database.state;
    return { registryId, revision, saves };
  }
}
