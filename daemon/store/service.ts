/** The database and its mark as the store's worker serves them: one request after the other. */
import { type DataDir, type Mark, MarkFile } from './data-dir.ts';
import { RegistryDatabase } from './database.ts';
import { OwnFiles } from './own-files.ts';
import type { Beat, Change, RecordChange } from './store.ts';

export type Request =
  | { kind: 'open' }
  | { kind: 'commit'; changes: readonly Change[] }
  | { kind: 'beats'; beats: readonly Beat[]; listened: number; records: readonly RecordChange[] }
  | { kind: 'history'; id: string; limit: number; before?: number | undefined }
  | { kind: 'backup'; path: string }
  | { kind: 'close' };

export class StoreService {
  readonly #dir: DataDir;
  #database!: RegistryDatabase;
  #mark!: MarkFile;
  #files!: OwnFiles;

  constructor(dir: DataDir) {
    this.#dir = dir;
  }

  /** Does what is asked, all or nothing. @throws the errors of SQLite and of the system, DamageError, NewerError, GoneError */
  handle(request: Request): unknown {
    switch (request.kind) {
      case 'open': {
        const database = new RegistryDatabase(this.#dir);
        this.#database = database;
        if (database.isEmpty()) database.create();
        const contents = database.load();
        // Now that it is known to be ours, and whole.
        database.upgrade();
        this.#mark = new MarkFile(this.#dir, this.#durable());
        this.#files = new OwnFiles([this.#dir.database, this.#dir.log]);
        return contents;
      }
      case 'commit':
        this.#files.check();
        this.#database.commit(request.changes);
        this.#mark.advance(this.#durable());
        return undefined;
      case 'beats':
        this.#files.check();
        this.#database.saveBeats(request.beats, request.listened, request.records);
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

  #durable(): Mark {
    const { registryId, revision, saves } = this.#database.state;
    return { registryId, revision, saves };
  }
}
