/** Failures of the store: classifies them in the worker, and converts them to errors for the user. */
import { VregError } from '../../src/protocol/errors.ts';
import type { DataDir } from './data-dir.ts';
import { DamageError, GoneError, NewerError, OlderError } from './integrity.ts';

/**
 * A failure that the worker or the check reports to the daemon. It is plain data, because it is sent between threads or
 * processes.
 */
export interface StoreFailure {
  /**
   * `full`: no space left. `locked`: another process has locked the database. `damaged`: the contents are wrong. `older`,
   * `newer`: another version of vreg wrote it. `disk`: the system refused to read or write. `gone`: a file was removed or
   * replaced. `unchecked`: the check could not finish, so the state of the database is unknown. `other`: everything else.
   */
  kind: 'full' | 'locked' | 'damaged' | 'older' | 'newer' | 'disk' | 'gone' | 'unchecked' | 'other';
  message: string;
  /** The file that failed, if it is not the database. */
  file?: string;
  /** The next step, if the default of `unchecked` does not help. */
  hint?: string | undefined;
}

/** Wraps a {@link StoreFailure} to reject a promise with it. */
export class StoreError extends Error {
  readonly failure: StoreFailure;

  constructor(failure: StoreFailure) {
    super(failure.message);
    this.failure = failure;
  }
}

/** Error codes of SQLite and the system when they cannot read or write. */
const DISK_CODES = /^(SQLITE_(CANTOPEN|IOERR|READONLY|PERM|AUTH|NOMEM)|E[A-Z0-9]+$)/;

/** Classifies an error of the database or of the system. */
export function toFailure(error: unknown): StoreFailure {
  if (error instanceof StoreError) return error.failure;
  const { code = '', message, path } = error as NodeJS.ErrnoException;
  const file = path === undefined ? {} : { file: path };
  if (error instanceof GoneError) return { kind: 'gone', message };
  if (error instanceof OlderError) return { kind: 'older', message, ...file };
  if (error instanceof NewerError) return { kind: 'newer', message, ...file };
  if (error instanceof DamageError) return { kind: 'damaged', message, ...file };
  if (code === 'SQLITE_FULL' || code === 'ENOSPC' || code === 'EDQUOT' || /disk is full/.test(message))
    return { kind: 'full', message, ...file };
  if (code.startsWith('SQLITE_BUSY') || /database is locked/.test(message)) return { kind: 'locked', message };
  if (code.startsWith('SQLITE_CORRUPT') || code.startsWith('SQLITE_NOTADB'))
    return { kind: 'damaged', message: `SQLite reports: ${message}` };
  // libsql does not set a code if it cannot open a file.
  const kind = DISK_CODES.test(code) || message.startsWith('ConnectionFailed') ? 'disk' : 'other';
  return { kind, message: code && !message.startsWith(code) ? `${message} (${code})` : message, ...file };
}

/**
 * Classifies an error of a check, which only reads. An error without a known cause means that the file is damaged, because the
 * SQL was valid when the file was written.
 */
export function toReadFailure(error: unknown): StoreFailure {
  const failure = toFailure(error);
  if (failure.kind !== 'other') return failure;
  return { kind: 'damaged', message: `reading it fails: ${failure.message}` };
}

const RESTORE = 'restore a backup (vreg daemon restore FILE)';
/** Appended to the hints about disk failures, to say what still works. */
const STILL_SERVING = 'reads and heartbeats still work';

/** @param path of the data dir */
export function dataDirInUse(path: string): VregError {
  return new VregError('ALREADY_RUNNING', `another process is using the data dir ${path}`, {
    hint: `stop it (vreg daemon stop serve --data-dir ${path}), or choose another folder with --data-dir`,
  });
}

/** Converts a store failure at startup to an error. */
export function toOpenError(dir: DataDir, failure: StoreFailure): VregError {
  const file = failure.file ?? dir.database;
  switch (failure.kind) {
    case 'locked':
      return dataDirInUse(dir.path);
    case 'damaged':
      return new VregError('STORE_DAMAGED', `${file} is damaged: ${failure.message}`, {
        hint:
          file === dir.mark
            ? `nothing was changed; ${RESTORE}, or remove the file (rm ${file}) and start again: the database has its own checksums, but without this file the loss of its last changes cannot be detected`
            : `nothing was changed; ${RESTORE}, or start an empty registry with another --data-dir`,
      });
    case 'older':
      return new VregError('STORE_OLDER', `${file} was written by an older vreg: ${failure.message}`, {
        hint: `nothing was changed; export the VMs with the vreg that wrote it (vreg export > fleet.ndjson) and import them into an empty registry (vreg import -f fleet.ndjson)`,
      });
    case 'newer':
      return new VregError('STORE_NEWER', `${file} was written by a newer vreg: ${failure.message}`, {
        hint: `nothing was changed; upgrade vreg, or ${RESTORE} that this version wrote`,
      });
    case 'full':
      return new VregError('STORE_UNUSABLE', `no space left on the disk that contains ${dir.path}`, {
        hint: 'free up some space, then start again',
      });
    case 'unchecked':
      return new VregError('STORE_UNUSABLE', `cannot check ${dir.database}: ${failure.message}`, {
        hint: failure.hint ?? 'free up memory or stop some processes, then start again',
      });
    case 'gone':
      return new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir.path}: ${failure.message}`, {
        hint: 'its files changed during the start, for example because of a restore; start again',
      });
    case 'disk':
    case 'other':
      return new VregError('STORE_UNUSABLE', `cannot open ${file}: ${failure.message}`, {
        hint: 'check that this user may read and write it, that the disk works and has free inodes (df -i), and that the process may open enough files (ulimit -n)',
      });
  }
}

/**
 * Converts a store failure during a request to an error.
 * @param action completes "the registry could not", for example `write to its disk`
 */
export function toRuntimeError(action: string, failure: StoreFailure): VregError {
  const message = `the registry could not ${action}: ${failure.message}`;
  switch (failure.kind) {
    case 'gone':
      return new VregError('STORE_FAILED', message, {
        hint: `put the files back, or stop the daemon, ${RESTORE} and start it again; ${STILL_SERVING}`,
        retryAfter: 5,
      });
    case 'full':
      return new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed', {
        hint: `free up space on the disk of the registry; ${STILL_SERVING}`,
        retryAfter: 5,
      });
    case 'disk':
      return new VregError('STORE_FAILED', message, {
        hint: `check the disk of the registry (dmesg, mount): it may be broken or read-only; ${STILL_SERVING}`,
        retryAfter: 5,
      });
    case 'damaged': {
      const file = failure.file ?? 'its database';
      return new VregError('STORE_FAILED', `the registry could not ${action}: ${file} is damaged: ${failure.message}`, {
        hint: `stop the daemon, ${RESTORE} and start it again; the daemon still serves the data in memory`,
      });
    }
    case 'unchecked':
      return new VregError('STORE_FAILED', message, {
        hint: failure.hint ?? "free up memory or stop some processes on the registry's machine, then retry",
        retryAfter: 5,
      });
    default:
      return new VregError('INTERNAL', message, { hint: "see the daemon's log" });
  }
}
