/**
 * The store worker: a thread that owns the database and handles one request at a time. Started as a program (`store-worker
 * check DIR`), it only reads the database. A damaged file can crash the SQLite library, and then this child process dies
 * instead of the daemon.
 */
import { closeSync, existsSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  type DataDir,
  type HighWaterMark,
  HighWaterMarkFile,
  inconsistency,
  openDataDir,
  readHighWaterMark,
} from './data-dir.ts';
import { RegistryDatabase } from './database.ts';
import { type StoreFailure, toFailure, toReadFailure } from './failures.ts';
import type { HeartbeatBatch } from './heartbeat-batch.ts';
import { checkFormat, checkJournal, DamageError, OpenFiles, readFormat } from './integrity.ts';
import type { Change, Contents, RecordChange, StoredVm } from './store.ts';
import { Unread } from './unread.ts';

export type Request =
  | { kind: 'open'; unread?: SharedArrayBuffer }
  | { kind: 'commit'; changes: readonly Change<string>[] }
  | { kind: 'stageHeartbeats'; batch: HeartbeatBatch }
  | { kind: 'saveHeartbeats'; listened: number; records: readonly RecordChange[] }
  | { kind: 'history'; id: string; limit: number; before?: number | undefined }
  | { kind: 'lastChanges'; after: number; until: number }
  | { kind: 'backup'; path: string }
  | { kind: 'close' };

/** A request as it is sent to the thread. Some of its changes may be JSON, which is faster to copy than objects. */
export type Message = Request | { kind: 'commit'; changes: readonly (Change<string> | string)[] };

/** The reply to a request. The VMs of a store precede the reply to `open`, so that the main thread can process them meanwhile. */
export type Reply =
  | { seq: number; value: unknown }
  | { seq: number; failure: StoreFailure }
  | { seq: number; vms: StoredVm[] };

/** Size of a message with VMs, in UTF-16 units of JSON: 1000 usual VMs. Copying it blocks the main thread for a millisecond. */
const BATCH_SIZE = 524_288;

/** The JSON that a check prints on stdout. */
export type CheckResult = { isEmpty: boolean } | { failure: StoreFailure };

/** The database and its high-water mark. */
export class StoreBackend {
  readonly #dir: DataDir;
  #database!: RegistryDatabase;
  #mark!: HighWaterMarkFile;
  readonly #files = new OpenFiles();
  /** Heartbeats that the next save makes durable. */
  readonly #staged: HeartbeatBatch[] = [];

  constructor(dir: DataDir) {
    this.#dir = dir;
  }

  /**
   * Handles a request atomically.
   * @param send receives the VMs of an opened store in batches; without it, the contents have them
   * @throws DamageError, OlderError, NewerError, GoneError, errors of SQLite and of the file system
   */
  handle(request: Request, send?: (vms: StoredVm[]) => void): unknown {
    switch (request.kind) {
      case 'open':
        return this.#open(send);
      case 'commit':
        this.#files.check();
        this.#database.commit(request.changes);
        this.#mark.advance(this.#durable());
        return undefined;
      case 'stageHeartbeats':
        this.#staged.push(request.batch);
        return undefined;
      case 'saveHeartbeats': {
        // Taken before anything can fail, because a retry stages all heartbeats again.
        const staged = this.#staged.splice(0);
        this.#files.check();
        this.#database.saveHeartbeats(staged, request.listened, request.records);
        if (request.records.length > 0) this.#mark.advance(this.#durable());
        return undefined;
      }
      case 'history':
        return this.#database.history(request.id, request.limit, request.before);
      case 'lastChanges':
        return this.#database.lastChanges(request.after, request.until);
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

  #open(send: ((vms: StoredVm[]) => void) | undefined): Contents {
    const { database: path, log } = this.#dir;
    // Create the file before SQLite opens it, so that its inode is known.
    if (!existsSync(path)) closeSync(openSync(path, 'a', 0o600));
    this.#files.add(path);
    const database = new RegistryDatabase(this.#dir);
    this.#database = database;
    if (database.isEmpty()) {
      // The check found a database, so it was removed after the check.
      if (readHighWaterMark(this.#dir)) throw new DamageError('it is empty, but a revision was acknowledged');
      database.create();
    }
    this.#files.add(log);
    let vms: StoredVm[] = [];
    let size = 0;
    const contents = database.load((vm) => {
      vms.push(vm);
      size += vm.body.length;
      if (!send || size < BATCH_SIZE) return;
      send(vms);
      vms = [];
      size = 0;
    });
    this.#mark = new HighWaterMarkFile(this.#dir, this.#durable());
    this.#files.check();
    return { ...contents, vms };
  }

  #durable(): HighWaterMark {
    const { registryId, revision, saves } = this.#database.state;
    return { registryId, revision, saves };
  }
}

function decode(message: Message): Request {
  if (message.kind !== 'commit') return message;
  const parse = (change: Change<string> | string) =>
    typeof change === 'string' ? (JSON.parse(change) as Change<string>) : change;
  return { kind: 'commit', changes: message.changes.map(parse) };
}

function serve(dir: DataDir): void {
  const port = parentPort!;
  const backend = new StoreBackend(dir);
  port.on('message', ({ seq, request }: { seq: number; request: Message }) => {
    let reply: Reply;
    try {
      const unread = request.kind === 'open' && request.unread ? new Unread(request.unread) : undefined;
      const send = (vms: StoredVm[]) => {
        port.postMessage({ seq, vms } satisfies Reply);
        unread?.sent();
      };
      reply = { seq, value: backend.handle(decode(request), send) };
    } catch (error) {
      reply = { seq, failure: { file: dir.database, ...toFailure(error) } };
    }
    port.postMessage(reply);
  });
}

/**
 * Kills the process when its stdin closes, which also happens when the parent dies. Runs in a thread, because SQLite blocks the
 * main thread. EAGAIN means that the main thread is already reading stdin and waiting for its end.
 */
const DIE_WITH_STDIN = `
  let code;
  try { require('node:fs').readSync(0, Buffer.alloc(1)); } catch (error) { code = error.code; }
  if (code !== 'EAGAIN') process.kill(process.pid, 'SIGKILL');
`;

/** Prints the result of the check, and keeps the database locked until stdin closes. */
function check(path: string): void {
  // If the thread cannot be started, the process still ends after the check.
  new Worker(DIE_WITH_STDIN, { eval: true }).on('error', () => {});
  let result: CheckResult;
  const dir = openDataDir(path);
  const hadLog = existsSync(dir.log);
  const removeNewLog = () => {
    if (!hadLog && statSync(dir.log, { throwIfNoEntry: false })?.size === 0) rmSync(dir.log);
  };
  try {
    // Both open and close the file, so they must run before SQLite locks it.
    checkJournal(dir);
    const format = readFormat(dir.database);
    const database = new RegistryDatabase(dir, { readOnly: true });
    // Now, because the following steps may crash. The database is locked, so the log belongs to no other process.
    removeNewLog();
    const isEmpty = database.isEmpty();
    const mark = readHighWaterMark(dir);
    if (isEmpty) {
      if (mark) throw new DamageError(`it is empty, but revision ${mark.revision} was acknowledged`);
    } else {
      database.integrityCheck();
      database.load(() => {});
      const problem = inconsistency(database.state, mark);
      if (problem) throw new DamageError(problem);
      checkFormat(format);
    }
    result = { isEmpty };
  } catch (error) {
    let failure = toReadFailure(error);
    if (failure.kind !== 'locked') removeNewLog();
    // If the disk cannot read the first page, SQLite reports it as damaged.
    if (failure.kind === 'damaged') failure = findReadError([dir.database, dir.log]) ?? failure;
    result = { failure };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`, () => {
    // A check must change nothing, so it ends without closing the database, because SQLite would move the log into it.
    const end = () => process.kill(process.pid, 'SIGKILL');
    process.stdin.once('close', end).once('error', end).resume();
  });
}

/** Bytes per read: few system calls, little memory. */
const CHUNK = 1_048_576;

/** @returns the error of the disk if one of the files cannot be read to its end */
function findReadError(paths: readonly string[]): StoreFailure | undefined {
  const chunk = Buffer.alloc(CHUNK);
  for (const path of paths.filter((path) => existsSync(path))) {
    try {
      const fd = openSync(path, 'r');
      for (let at = 0, got = 1; got > 0; at += got) got = readSync(fd, chunk, 0, CHUNK, at);
      closeSync(fd);
    } catch (error) {
      return toFailure(Object.assign(error as Error, { path }));
    }
  }
  return undefined;
}

if (!isMainThread) serve((workerData as { dir: DataDir }).dir);
else if (process.argv[2] === 'check') check(process.argv[3]!);
