/**
 * The store's worker: a thread that owns the database, one request after the other. Run as a program of its own
 * (`store-worker check DIR`) it only reads the database: a damaged file can abort the SQLite library, and then a child
 * dies instead of the daemon.
 */
import { existsSync, rmSync, statSync } from 'node:fs';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { type DataDir, type Mark, MarkFile, openDataDir, readMark } from './data-dir.ts';
import { contradiction, RegistryDatabase } from './database.ts';
import { DamageError } from './guards.ts';
import type { Beat, Change, RecordChange } from './store.ts';

export type Request =
  | { kind: 'open' }
  | { kind: 'commit'; changes: readonly Change[] }
  | { kind: 'beats'; beats: readonly Beat[]; listened: number; records: readonly RecordChange[] }
  | { kind: 'history'; id: string; limit: number; before?: number | undefined }
  | { kind: 'backup'; path: string }
  | { kind: 'close' };

export interface Failure {
  /** `full`: no room; `busy`: another process has the database; `damaged`: its contents are wrong; `other`: all else. */
  kind: 'full' | 'busy' | 'damaged' | 'other';
  message: string;
}

export type Reply = { seq: number; value: unknown } | { seq: number; failure: Failure };

/** What a check prints on stdout. */
export type Finding = { ok: true } | { failure: Failure };

function serve(dir: DataDir): void {
  const port = parentPort!;
  let database: RegistryDatabase;
  let mark: MarkFile;
  const handle = (request: Request): unknown => {
    switch (request.kind) {
      case 'open': {
        database = new RegistryDatabase(dir);
        if (database.isEmpty()) database.create();
        const contents = database.load();
        // Now that it is known to be ours, and whole.
        database.upgrade();
        mark = new MarkFile(dir, markOf(database));
        return contents;
      }
      case 'commit':
        database.commit(request.changes);
        mark.advance(markOf(database));
        return undefined;
      case 'beats':
        database.saveBeats(request.beats, request.listened, request.records);
        return undefined;
      case 'history':
        return database.history(request.id, request.limit, request.before);
      case 'backup':
        database.backup(request.path);
        return undefined;
      case 'close':
        database.close();
        mark.close();
        return undefined;
    }
  };
  port.on('message', ({ seq, request }: { seq: number; request: Request }) => {
    let reply: Reply;
    try {
      reply = { seq, value: handle(request) };
    } catch (error) {
      reply = { seq, failure: describe(error) };
    }
    port.postMessage(reply);
  });
}

function markOf({ state: { registryId, revision } }: RegistryDatabase): Mark {
  return { registryId, revision };
}

function check(path: string): void {
  let finding: Finding = { ok: true };
  const dir = openDataDir(path);
  const hadLog = existsSync(dir.log);
  const removeNewLog = () => {
    if (!hadLog && statSync(dir.log, { throwIfNoEntry: false })?.size === 0) rmSync(dir.log);
  };
  try {
    const database = new RegistryDatabase(dir, { lookOnly: true });
    // Now, since the rest may abort the library. This process has the lock, so the log is nobody else's.
    removeNewLog();
    const isEmpty = database.isEmpty();
    const mark = readMark(dir);
    if (isEmpty) {
      if (mark) throw new DamageError(`it is empty, but revision ${mark.revision} was acknowledged`);
    } else {
      database.integrityCheck();
      database.load();
      const wrong = contradiction(database.state, mark);
      if (wrong) throw new DamageError(wrong);
    }
  } catch (error) {
    const failure = describeFinding(error);
    if (failure.kind !== 'busy') removeNewLog();
    finding = { failure };
  }
  process.stdout.write(`${JSON.stringify(finding)}\n`, () => {
    // Closing the database would let SQLite tidy up its log; a check changes nothing, so it ends without closing.
    process.kill(process.pid, 'SIGKILL');
  });
}

function describe(error: unknown): Failure {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof DamageError || code === 'STORE_DAMAGED') return { kind: 'damaged', message };
  if (code === 'SQLITE_FULL' || code === 'ENOSPC' || /disk is full/.test(message)) return { kind: 'full', message };
  if (code?.startsWith('SQLITE_BUSY') || /database is locked/.test(message)) return { kind: 'busy', message };
  if (code?.startsWith('SQLITE_CORRUPT') || code?.startsWith('SQLITE_NOTADB')) {
    return { kind: 'damaged', message: `SQLite finds: ${message}` };
  }
  return { kind: 'other', message: code ? `${message} (${code})` : message };
}

/** Failures to get at the file, as SQLite and the system name them. libsql has no name for one that it cannot open. */
const NO_ACCESS = /^(SQLITE_(CANTOPEN|IOERR|READONLY|PERM|AUTH|NOMEM)|E[A-Z]+$)/;

/** While everything is only read, whatever else goes wrong is in the file: SQL that was right when it was made, for one. */
function describeFinding(error: unknown): Failure {
  const failure = describe(error);
  const { code = '', message } = error as NodeJS.ErrnoException;
  if (failure.kind !== 'other' || NO_ACCESS.test(code) || message.startsWith('ConnectionFailed')) return failure;
  return { kind: 'damaged', message: `reading it fails: ${failure.message}` };
}

if (!isMainThread) serve((workerData as { dir: DataDir }).dir);
else if (process.argv[2] === 'check') check(process.argv[3]!);
