/**
 * The store's worker: a thread that owns the database, one request after the other. Run as a program of its own
 * (`store-worker check DIR`) it only reads the database: a damaged file can abort the SQLite library, and then a child
 * dies instead of the daemon.
 */
import { closeSync, existsSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { contradiction, type DataDir, openDataDir, readMark } from './data-dir.ts';
import { RegistryDatabase } from './database.ts';
import { describe, describeFinding, type Failure } from './failures.ts';
import { checkFormat, checkJournal, DamageError, formatOf } from './integrity.ts';
import { type Request, StoreService } from './service.ts';

export type Reply = { seq: number; value: unknown } | { seq: number; failure: Failure };

/** What a check prints on stdout. */
export type Finding = { isEmpty: boolean } | { failure: Failure };

function serve(dir: DataDir): void {
  const port = parentPort!;
  const service = new StoreService(dir);
  port.on('message', ({ seq, request }: { seq: number; request: Request }) => {
    let reply: Reply;
    try {
      reply = { seq, value: service.handle(request) };
    } catch (error) {
      reply = { seq, failure: { file: dir.database, ...describe(error) } };
    }
    port.postMessage(reply);
  });
}

/**
 * Ends the process when who asked lets go of its stdin, by their own end for one: a thread, since SQLite is at work in the
 * first one. EAGAIN: that one is done by now, and waits itself.
 */
const END_WITH_STDIN = `
  let code;
  try { require('node:fs').readSync(0, Buffer.alloc(1)); } catch (error) { code = error.code; }
  if (code !== 'EAGAIN') process.kill(process.pid, 'SIGKILL');
`;

/** Prints what it finds, and keeps the lock until stdin ends. */
function check(path: string): void {
  // Without a thread to spare it ends when it is done.
  new Worker(END_WITH_STDIN, { eval: true }).on('error', () => {});
  let finding: Finding;
  const dir = openDataDir(path);
  const hadLog = existsSync(dir.log);
  const removeNewLog = () => {
    if (!hadLog && statSync(dir.log, { throwIfNoEntry: false })?.size === 0) rmSync(dir.log);
  };
  try {
    // What opens the file itself comes before there is a lock on it.
    checkJournal(dir);
    const format = formatOf(dir.database);
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
      checkFormat(format);
    }
    finding = { isEmpty };
  } catch (error) {
    let failure = describeFinding(error);
    if (failure.kind !== 'busy') removeNewLog();
    // SQLite takes a first page that the disk does not give back for one that is wrong.
    if (failure.kind === 'damaged') failure = findUnreadable([dir.database, dir.log]) ?? failure;
    finding = { failure };
  }
  process.stdout.write(`${JSON.stringify(finding)}\n`, () => {
    // Closing the database would let SQLite tidy up its log; a check changes nothing, so it ends without closing.
    const end = () => process.kill(process.pid, 'SIGKILL');
    process.stdin.once('close', end).once('error', end).resume();
  });
}

/** Bytes that are read at once: few calls, little memory. */
const CHUNK = 1_048_576;

/** @returns what the disk says when one of the files cannot be read to its end */
function findUnreadable(paths: readonly string[]): Failure | undefined {
  const chunk = Buffer.alloc(CHUNK);
  for (const path of paths.filter((path) => existsSync(path))) {
    try {
      const fd = openSync(path, 'r');
      for (let at = 0, got = 1; got > 0; at += got) got = readSync(fd, chunk, 0, CHUNK, at);
      closeSync(fd);
    } catch (error) {
      return describe(Object.assign(error as Error, { path }));
    }
  }
  return undefined;
}

if (!isMainThread) serve((workerData as { dir: DataDir }).dir);
else if (process.argv[2] === 'check') check(process.argv[3]!);
