/** Replaces the registry in a data dir with a backup, and keeps the previous files. */
import { accessSync, chmodSync, constants, copyFileSync, existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { syncPath } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { readProcessInfo } from '../process/pid-file.ts';
import { type LockedDatabase, lock } from './check.ts';
import { DATABASE, type DataDir, openDataDir } from './data-dir.ts';
import type { CheckedState } from './database.ts';
import { createDraftFolder, RESTORE_PREFIX } from './draft-folder.ts';
import { type StoreFailure, toFailure, toOpenError } from './failures.ts';
import { NOT_A_REGISTRY } from './integrity.ts';
import { prepareStore } from './sqlite-store.ts';

/** The message of SQLite about any other file (SQLITE_NOTADB). */
const NOT_A_DATABASE = 'file is not a database';

export interface Restored {
  dataDir: string;
  /** Folder with the previous files; absent if there were none. */
  kept?: string;
}

/**
 * @param file a backup that `vreg backup` wrote, or the database in a folder that an earlier restore kept
 * @throws VregError ALREADY_RUNNING (a daemon is using the data dir), STORE_DAMAGED, STORE_OLDER or STORE_NEWER (about the
 * backup), STORE_UNUSABLE (no space left, for example), USAGE (the file cannot be read, or is no backup)
 */
export async function restore(dataDir: string, file: string): Promise<Restored> {
  const dir = openDataDir(dataDir);
  const folder = makeFolder(dir, () => createDraftFolder(join(dir.path, RESTORE_PREFIX)));
  let locked: LockedDatabase | undefined;
  try {
    const draft = openDataDir(folder.path);
    copyFiles(file, draft);
    const checked = await checkCopy(file, draft);
    // Now, while nothing has been changed: a full disk would fail the next start.
    await prepareStore(draft, checked);
    // No daemon can open the database until the restore is complete.
    if (exists(dir.database)) locked = await lock(dir);
    if (locked && 'failure' in locked.result) assertReplaceable(dir, locked.result.failure);
    const kept = exchange(dir, draft);
    return { dataDir: dir.path, ...(kept === undefined ? {} : { kept }) };
  } finally {
    await locked?.release();
    folder.remove();
  }
}

/**
 * Checks that a store which failed its check may be replaced: it may be damaged, unreadable, or from another version of vreg,
 * but not in use.
 * @throws VregError ALREADY_RUNNING, STORE_UNUSABLE
 */
function assertReplaceable(dir: DataDir, failure: StoreFailure): void {
  if (['damaged', 'older', 'newer'].includes(failure.kind)) return;
  // A database that could not be opened could not be locked either, so the pid file decides.
  const isInUse = readProcessInfo(dir.path, 'serve') !== undefined;
  const isUnknown = failure.kind === 'locked' || failure.kind === 'unchecked' || !isAccessible(dir.database);
  if (isInUse || isUnknown) throw toOpenError(dir, isInUse ? { ...failure, kind: 'locked' } : failure);
}

/** Ignores a pipe in the place of the database, because opening it would block until there is a writer. */
function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFIFO() === false;
}

/** False if the user may not open the database, and therefore cannot determine whether it is in use. */
function isAccessible(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** @returns the state of the copy @throws VregError USAGE, STORE_DAMAGED, STORE_OLDER, STORE_NEWER, STORE_UNUSABLE */
export async function checkCopy(file: string, draft: DataDir): Promise<CheckedState> {
  const { result, release } = await lock(draft);
  await release();
  if ('loaded' in result) return result.loaded.state;
  // SQLite accepts an empty file as a database.
  if (
    !('failure' in result) ||
    [NOT_A_DATABASE, NOT_A_REGISTRY].some((each) => result.failure.message.includes(each))
  ) {
    throw new VregError('USAGE', `cannot restore ${file}: ${NOT_A_REGISTRY}`, {
      field: 'file',
      hint: 'nothing was changed; pass a file that vreg backup wrote',
    });
  }
  const error = toOpenError(draft, result.failure);
  const hint = error.code === 'STORE_DAMAGED' ? damagedHint(draft) : error.hint!;
  // Name the backup instead of the checked copy, which the user does not know.
  const message = error.message
    .replace(draft.database, 'it')
    .replace(draft.mark, join(dirname(file), basename(draft.mark)))
    .replace(draft.path, dirname(file));
  throw new VregError(error.code, `cannot restore ${file}: ${message}`, { field: 'file', hint });
}

/** @returns the folder with the previous files; undefined if there were none */
function exchange(dir: DataDir, draft: DataDir): string | undefined {
  // Include the journal, because SQLite would apply it to the backup.
  const old = [dir.database, dir.log, dir.journal, dir.mark].filter((path) => existsSync(path));
  const kept = join(dir.path, `before-restore-${new Date().toISOString().replaceAll(':', '')}`);
  if (old.length > 0) makeFolder(dir, () => mkdirSync(kept, { mode: 0o700 }));
  const keep = (path: string) => renameSync(path, join(kept, basename(path)));
  for (const path of old) if (path !== dir.mark) keep(path);
  renameSync(draft.database, dir.database);
  // Move the mark last: if the restore is interrupted, the next start then fails instead of creating an empty registry.
  syncPath(dir.path);
  if (old.includes(dir.mark)) keep(dir.mark);
  renameSync(draft.mark, dir.mark);
  syncPath(dir.path);
  return old.length > 0 ? kept : undefined;
}

/** Copies the backup. If it is the database of a killed daemon, also copies the log with its last changes and its mark. */
export function copyFiles(file: string, draft: DataDir): void {
  copy(file, draft.database);
  const [log, mark] = [`${file}-wal`, join(dirname(file), basename(draft.mark))];
  if ((statSync(log, { throwIfNoEntry: false })?.size ?? 0) > 0) copy(log, draft.log);
  // A mark beside a file with another name belongs to another database.
  if (basename(file) === DATABASE && existsSync(mark)) copy(mark, draft.mark);
}

function damagedHint(draft: DataDir): string {
  const hint = 'nothing was changed; try an older backup';
  return existsSync(draft.mark) || existsSync(draft.log)
    ? `${hint}, or a copy of the file alone: without its log and mark it is accepted, but its last changes are lost`
    : hint;
}

/** @throws VregError USAGE, STORE_UNUSABLE */
function copy(from: string, to: string): void {
  try {
    if (!statSync(from).isFile()) {
      throw Object.assign(new Error('it is not a regular file'), { code: 'it is not a regular file' });
    }
    copyFileSync(from, to);
    chmodSync(to, 0o600);
    syncPath(to);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (isFull(code)) throw noSpace(`a copy of ${from} in ${dirname(to)}`, cause);
    throw new VregError('USAGE', `cannot read ${from} (${code})`, {
      field: 'file',
      hint: 'check its path and mode; decompress a compressed backup into a file first',
      cause,
    });
  }
}

/** Creates a folder in the data dir. @throws VregError STORE_UNUSABLE */
function makeFolder<T>(dir: DataDir, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    if (isFull((cause as NodeJS.ErrnoException).code)) throw noSpace(`a folder in ${dir.path}`, cause);
    throw toOpenError(dir, toFailure(cause));
  }
}

function isFull(code: string | undefined): boolean {
  return code === 'ENOSPC' || code === 'EDQUOT';
}

function noSpace(what: string, cause: unknown): VregError {
  const hint = 'nothing was changed; free up space or inodes (df, df -i), then retry';
  return new VregError('STORE_UNUSABLE', `no space left for ${what}`, { hint, cause });
}
