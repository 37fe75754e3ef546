/**
 * The store worker: a thread that owns the database and handles one request at a time. Started as a program (`store-worker
 * check DIR`), it only reads the database. A damaged file can crash the SQLite library, and then this child process dies
 * instead of the daemon. `store-worker load DIR` also prints what it reads, so that a start reads the database once.
 */
import { closeSync, existsSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  type DataDir,
  type HighWaterMark,
  HighWaterMarkFile,
  inconsistency,
  openDataDir,
  readHighWaterMark,
} from './data-dir.ts';
import { type CheckedState, type Filling, type Loaded, RegistryDatabase } from './database.ts';
import { type StoreFailure, toFailure, toReadFailure } from './failures.ts';
import type { HeartbeatBatch } from './heartbeat-batch.ts';
import { checkFormat, checkJournal, DamageError, OpenFiles, readFormat } from './integrity.ts';
import type { Change, Contents, RecordChange, StoredRecord, StoredVm } from './store.ts';
import { decodeBatch, type EncodedBatch } from './vm-batch.ts';

export type Request =
  | { kind: 'open'; checked?: CheckedState }
  | { kind: 'prepare' }
  | { kind: 'fill'; part: Filling }
  | { kind: 'commit'; changes: readonly Change<string>[] }
  | { kind: 'stageHeartbeats'; batch: HeartbeatBatch }
  | { kind: 'saveHeartbeats'; listened: number; records: readonly RecordChange[] }
  | { kind: 'tryWrite' }
  | { kind: 'read' }
  | { kind: 'history'; id: string; limit: number; before?: number | undefined }
  | { kind: 'lastChanges'; after: number; until: number }
  | { kind: 'backup'; path: string }
  | { kind: 'close' };

/** A request as it is sent to the thread. Some of its changes may be JSON, which is faster to copy than objects. */
export type Message = Request | { kind: 'commit'; changes: readonly (Change<string> | string)[] };

export type Reply = { seq: number; value: unknown } | { seq: number; failure: StoreFailure };

/**
 * A line of JSON that a check prints on stdout. The result is the last one. Only a check that loads the database prints VMs and
 * records.
 */
export type CheckLine = EncodedBatch | { records: StoredRecord[] } | CheckResult;

export type CheckResult = { loaded: Loaded } | { isEmpty: true } | { failure: StoreFailure };

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
   * @returns for `open` without a checked state, the contents
   * @throws DamageError, OlderError, NewerError, GoneError, errors of SQLite and of the file system
   */
  handle(request: Request): unknown {
    switch (request.kind) {
      case 'open':
        return this.#open(request.checked);
      case 'prepare':
        this.#database.loadSlots();
        return undefined;
      case 'fill':
        this.#database.fill(request.part);
        return undefined;
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
      case 'tryWrite':
        this.#files.check();
        this.#database.tryWrite();
        this.#mark.advance(this.#durable());
        return undefined;
      case 'read':
        this.#files.check();
        this.#database.isEmpty();
        return undefined;
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

  /** @param checked undefined for a database that no other process has checked: it is created, or loaded here */
  #open(checked: CheckedState | undefined): Contents | undefined {
    const { database: path, log } = this.#dir;
    // Create the file before SQLite opens it, so that its inode is known.
    if (!existsSync(path)) closeSync(openSync(path, 'a', 0o600));
    this.#files.add(path);
    const database = new RegistryDatabase(this.#dir);
    this.#database = database;
    if (database.isEmpty()) {
      // The check found a database, so it was removed after the check.
      if (checked || readHighWaterMark(this.#dir))
        throw new DamageError('it is empty, but a revision was acknowledged');
      database.create();
    }
    this.#files.add(log);
    let contents: Contents | undefined;
    if (checked) database.resume(checked);
    else contents = loadContents(database);
    this.#mark = new HighWaterMarkFile(this.#dir, this.#durable());
    this.#files.check();
    return contents;
  }

  #durable(): HighWaterMark {
    const { registryId, revision, saves } = this.#database.state;
    return { registryId, revision, saves };
  }
}

function loadContents(database: RegistryDatabase): Contents {
  const vms: StoredVm[] = [];
  const records: StoredRecord[] = [];
  const { contents } = database.load({
    vms: (json) => vms.push(...decodeBatch(JSON.parse(Buffer.concat(json).toString()) as EncodedBatch)),
    records: (batch) => records.push(...batch),
  });
  return { ...contents, vms, records };
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
      reply = { seq, value: backend.handle(decode(request)) };
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

/**
 * Ends the process after an error that nothing has caught. Node's own exit would wait for the thread that reads stdin, and would
 * close the database.
 */
function dieWith(error: unknown): void {
  try {
    writeSync(STDERR, error instanceof Error ? `${error.stack}\n` : `Error: ${String(error)}\n`);
  } finally {
    process.kill(process.pid, 'SIGKILL');
  }
}

/** File descriptors. Writes to them do not block. */
const STDOUT = 1;
const STDERR = 2;
/** Milliseconds after which a full pipe is tried again: the parent reads it in about as long. */
const FULL_PIPE_DELAY = 1;

/** Prints the pieces of a line. Waits for the parent to read it, because this process must not collect the entire database. */
function print(...pieces: readonly Buffer[]): void {
  const sleeper = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  for (const piece of [...pieces, Buffer.from('\n')]) {
    for (let at = 0; at < piece.length; ) {
      try {
        at += writeSync(STDOUT, piece, at);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        Atomics.wait(sleeper, 0, 0, FULL_PIPE_DELAY);
      }
    }
  }
}

function printJson(line: CheckLine): void {
  print(Buffer.from(JSON.stringify(line)));
}

/**
 * Prints the result of the check, and keeps the database locked until stdin closes.
 * @param isLoad true to print the VMs and the records, too
 */
function check(path: string, isLoad: boolean): void {
  process.on('uncaughtException', dieWith);
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
    const mark = readHighWaterMark(dir);
    if (database.isEmpty()) {
      if (mark) throw new DamageError(`it is empty, but revision ${mark.revision} was acknowledged`);
      result = { isEmpty: true };
    } else {
      database.integrityCheck();
      const loaded = database.load({
        vms: (json) => isLoad && print(...json),
        records: (records) => isLoad && printJson({ records }),
      });
      const problem = inconsistency(loaded.state, mark);
      if (problem) throw new DamageError(problem);
      checkFormat(format);
      result = { loaded };
    }
  } catch (error) {
    let failure = toReadFailure(error);
    if (failure.kind !== 'locked') removeNewLog();
    // If the disk cannot read the first page, SQLite reports it as damaged.
    if (failure.kind === 'damaged') failure = findReadError([dir.database, dir.log]) ?? failure;
    result = { failure };
  }
  printJson(result);
  // A check must change nothing, so it ends without closing the database, because SQLite would move the log into it.
  const end = () => process.kill(process.pid, 'SIGKILL');
  process.stdin.once('close', end).once('error', end).resume();
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

const [, , action, path] = process.argv;
if (!isMainThread) serve((workerData as { dir: DataDir }).dir);
else if (action === 'check' || action === 'load') check(path!, action === 'load');
