/** What can go wrong with a store: how the worker tells it, and what its user reads. */
import { VregError } from '../../src/protocol/errors.ts';
import type { DataDir } from './data-dir.ts';
import { DamageError, GoneError, NewerError } from './integrity.ts';

export interface Failure {
  /**
   * `full`: no room; `busy`: another process has the database; `damaged`: its contents are wrong; `newer`: another vreg
   * made it; `disk`: the system refused to read or write; `gone`: a file is not in its place any more; `unchecked`: whether it
   * is whole is not known; `other`: all else.
   */
  kind: 'full' | 'busy' | 'damaged' | 'newer' | 'disk' | 'gone' | 'unchecked' | 'other';
  message: string;
  /** The file that it happened to, where that is not the database. */
  file?: string;
}

/** What the worker answers when it could not do what it was asked. */
export class StoreFailure extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.message);
    this.failure = failure;
  }
}

/** Refusals of the system, as SQLite and the system name them. */
const BY_THE_SYSTEM = /^(SQLITE_(CANTOPEN|IOERR|READONLY|PERM|AUTH|NOMEM)|E[A-Z0-9]+$)/;

/** What an error of the database or of the system means. */
export function describe(error: unknown): Failure {
  const { code = '', message, path } = error as NodeJS.ErrnoException;
  const where = path === undefined ? {} : { file: path };
  if (error instanceof GoneError) return { kind: 'gone', message };
  if (error instanceof NewerError) return { kind: 'newer', message };
  if (error instanceof DamageError || code === 'STORE_DAMAGED') return { kind: 'damaged', message };
  if (code === 'SQLITE_FULL' || code === 'ENOSPC' || code === 'EDQUOT' || /disk is full/.test(message))
    return { kind: 'full', message, ...where };
  if (code.startsWith('SQLITE_BUSY') || /database is locked/.test(message)) return { kind: 'busy', message };
  if (code.startsWith('SQLITE_CORRUPT') || code.startsWith('SQLITE_NOTADB'))
    return { kind: 'damaged', message: `SQLite finds: ${message}` };
  // libsql has no code for a file that it cannot open.
  const kind = BY_THE_SYSTEM.test(code) || message.startsWith('ConnectionFailed') ? 'disk' : 'other';
  return { kind, message: code && !message.startsWith(code) ? `${message} (${code})` : message, ...where };
}

/** While everything is only read, whatever else goes wrong is in the file: SQL that was right when it was made, for one. */
export function describeFinding(error: unknown): Failure {
  const failure = describe(error);
  if (failure.kind !== 'other') return failure;
  return { kind: 'damaged', message: `reading it fails: ${failure.message}` };
}

export function atOpen(dir: DataDir, { failure }: StoreFailure): VregError {
  switch (failure.kind) {
    case 'busy':
      return new VregError('ALREADY_RUNNING', `another process has the data dir ${dir.path}`, {
        hint: `stop it (vreg daemon stop serve --data-dir ${dir.path}), or give this one another --data-dir`,
      });
    case 'damaged':
      return damaged(dir, failure.message);
    case 'newer':
      return new VregError('STORE_NEWER', `${dir.database} was made by a newer vreg: ${failure.message}`, {
        hint: 'nothing was changed; upgrade vreg, or put a backup of before in its place (vreg daemon restore FILE)',
      });
    case 'full':
      return new VregError('STORE_UNUSABLE', `no room on the disk of ${dir.path}`, {
        hint: 'free some space, then start again',
      });
    case 'unchecked':
      return new VregError('STORE_UNUSABLE', `cannot check ${dir.database}: ${failure.message}`, {
        hint: 'free some memory or processes, then start again',
      });
    case 'gone':
      return new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir.path}: ${failure.message}`, {
        hint: 'it was exchanged during the start, by a restore for one; start again',
      });
    case 'disk':
    case 'other':
      return new VregError('STORE_UNUSABLE', `cannot open ${failure.file ?? dir.database}: ${failure.message}`, {
        hint: 'check that this user may read and write it, that its disk is well and has room for one more file (df -i), and that enough files may be open (ulimit -n)',
      });
  }
}

/** @param what was tried, after "the registry could not": `write to its disk` */
export function atWork(what: string, { failure }: StoreFailure): VregError {
  switch (failure.kind) {
    case 'gone':
      return new VregError('STORE_FAILED', `the registry could not ${what}: ${failure.message}`, {
        hint: 'put its data dir back as it was; or stop the daemon, put a backup in its place (vreg daemon restore FILE) and start it again; reads and heartbeats go on meanwhile',
        retryAfter: 5,
      });
    case 'full':
      return new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed', {
        hint: "free space on the registry's disk; reads and heartbeats go on meanwhile",
        retryAfter: 5,
      });
    case 'disk':
      return new VregError('STORE_FAILED', `the registry could not ${what}: ${failure.message}`, {
        hint: "look at the registry's disk (dmesg, mount): it may be broken or read-only; reads and heartbeats go on meanwhile",
        retryAfter: 5,
      });
    case 'damaged':
      return new VregError(
        'STORE_FAILED',
        `the registry could not ${what}: ${failure.file ?? 'its database'} is damaged: ${failure.message}`,
        {
          hint: 'stop the daemon, put a backup in its place (vreg daemon restore FILE) and start it again; what can be read is served meanwhile',
        },
      );
    case 'unchecked':
      return new VregError('STORE_FAILED', `the registry could not ${what}: ${failure.message}`, {
        hint: 'free some memory or processes of the machine of the registry, then try again',
        retryAfter: 5,
      });
    default:
      return new VregError('INTERNAL', `the registry could not ${what}: ${failure.message}`, {
        hint: "see the daemon's log",
      });
  }
}

export function damaged(dir: DataDir, what: string): VregError {
  return new VregError('STORE_DAMAGED', `${dir.database} is damaged: ${what}`, {
    hint: `nothing was changed; put a backup in its place (vreg daemon restore FILE), or start an empty registry with another --data-dir`,
  });
}
