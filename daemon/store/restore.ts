/** A backup becomes the registry of a data dir; what was there is kept beside it. */
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { VregError } from '../../src/protocol/errors.ts';
import { readProcessInfo } from '../process/pid-file.ts';
import { type Held, hold } from './check.ts';
import { DATABASE, type DataDir, openDataDir } from './data-dir.ts';
import { atOpen, describe, type Failure, StoreFailure } from './failures.ts';

export interface Restored {
  dataDir: string;
  /** Folder with the files that were there before; absent when there were none. */
  kept?: string;
}

/**
 * @param file a backup, as `vreg backup` writes it; or the database of a folder that a restore has kept
 * @throws VregError ALREADY_RUNNING (a daemon has the data dir), STORE_DAMAGED (the backup is), STORE_NEWER (the backup
 * is of a newer vreg), STORE_UNUSABLE (no room, say), USAGE (the backup cannot be read)
 */
export async function restore(dataDir: string, file: string): Promise<Restored> {
  const dir = openDataDir(dataDir);
  const draft = openDataDir(make(dir, () => mkdtempSync(join(dir.path, 'restore-'))));
  let held: Held | undefined;
  try {
    copyAll(file, draft);
    await checkCopy(file, draft);
    // No daemon can open it until what takes its place is there.
    if (isThere(dir.database)) held = await hold(dir);
    if (held && 'failure' in held.finding) refuseInUse(dir, held.finding.failure);
    const kept = exchange(dir, draft);
    return { dataDir: dir.path, ...(kept === undefined ? {} : { kept }) };
  } finally {
    await held?.release();
    rmSync(draft.path, { recursive: true, force: true });
  }
}

/**
 * A damaged store is what a restore is for, and so is one that its disk gives nothing of; one of a newer vreg may be. One that
 * is in use is not.
 */
function refuseInUse(dir: DataDir, failure: Failure): void {
  const isRead = failure.kind === 'damaged' || failure.kind === 'newer';
  if (isRead) return;
  // What could not be opened could not be locked: then it is for the daemon's own word.
  const isInUse = readProcessInfo(dir.path, 'serve') !== undefined;
  const isRefused = failure.kind === 'busy' || failure.kind === 'unchecked' || !mayBeOpened(dir.database);
  if (isInUse || isRefused) throw atOpen(dir, new StoreFailure(isInUse ? { ...failure, kind: 'busy' } : failure));
}

/** A pipe in its place is nobody's database, and would be waited for. */
function isThere(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFIFO() === false;
}

/** By this user: who may not cannot tell who has it open. */
function mayBeOpened(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** @throws VregError STORE_DAMAGED, STORE_NEWER, STORE_UNUSABLE */
async function checkCopy(file: string, draft: DataDir): Promise<void> {
  const { finding, release } = await hold(draft);
  await release();
  const isOther = 'failure' in finding ? /file is not a database/.test(finding.failure.message) : finding.isEmpty;
  // An empty one is whole all the same.
  if (isOther) {
    throw new VregError('STORE_DAMAGED', `${file} cannot be restored: it is not the database of a vreg registry`, {
      field: 'file',
      hint: 'nothing was changed; give a file that vreg backup wrote',
    });
  }
  if ('failure' in finding) {
    const error = atOpen(draft, new StoreFailure(finding.failure));
    // One of a newer vreg is whole, and one that could not be checked may be.
    const hint = error.code === 'STORE_DAMAGED' ? damagedHint(draft) : error.hint!;
    const message = error.message.replace(draft.database, 'it').replace(draft.path, dirname(file));
    throw new VregError(error.code, `${file} cannot be restored: ${message}`, { field: 'file', hint });
  }
}

/** @returns the folder with what was there before */
function exchange(dir: DataDir, draft: DataDir): string | undefined {
  // A journal that stayed would undo what is put beside it.
  const old = [dir.database, dir.log, dir.journal, dir.mark].filter((path) => existsSync(path));
  const kept = join(dir.path, `before-restore-${new Date().toISOString().replaceAll(':', '')}`);
  if (old.length > 0) make(dir, () => mkdirSync(kept, { mode: 0o700 }));
  const keep = (path: string) => renameSync(path, join(kept, basename(path)));
  for (const path of old) if (path !== dir.mark) keep(path);
  if (existsSync(draft.log)) renameSync(draft.log, dir.log);
  renameSync(draft.database, dir.database);
  // The mark goes last, so that a restore which is cut off leaves an error for the next start, and no empty registry.
  sync(dir.path);
  if (old.includes(dir.mark)) keep(dir.mark);
  sync(dir.path);
  return old.length > 0 ? kept : undefined;
}

/** What a killed daemon left has its last changes in the log beside it, and a mark that knows of them. */
function copyAll(file: string, draft: DataDir): void {
  copy(file, draft.database);
  const [log, mark] = [`${file}-wal`, join(dirname(file), 'registry.mark')];
  if ((statSync(log, { throwIfNoEntry: false })?.size ?? 0) > 0) copy(log, draft.log);
  // Beside a file of another name it is that of another database.
  if (basename(file) === DATABASE && existsSync(mark)) copy(mark, draft.mark);
}

function damagedHint(draft: DataDir): string {
  const hint = 'nothing was changed; try an older backup';
  return existsSync(draft.mark) || existsSync(draft.log)
    ? `${hint}, or a copy of the file alone, without what its log and its mark say it lacks`
    : hint;
}

function copy(from: string, to: string): void {
  try {
    if (!statSync(from).isFile()) {
      throw Object.assign(new Error('it is no regular file'), { code: 'it is no regular file' });
    }
    copyFileSync(from, to);
    chmodSync(to, 0o600);
    sync(to);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (isFull(code)) throw noRoom(`for a copy of ${from} in ${dirname(to)}`, cause);
    throw new VregError('USAGE', `cannot read ${from} (${code})`, {
      field: 'file',
      hint: 'check its path and mode; a backup that is packed has to be unpacked into a file first',
      cause,
    });
  }
}

/** Makes a folder in the data dir. @throws VregError STORE_UNUSABLE */
function make<T>(dir: DataDir, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (isFull((cause as NodeJS.ErrnoException).code)) throw noRoom(`for a folder in ${dir.path}`, cause);
    throw atOpen(dir, new StoreFailure(describe(cause)));
  }
}

function isFull(code: string | undefined): boolean {
  return code === 'ENOSPC' || code === 'EDQUOT';
}

function noRoom(what: string, cause: unknown): VregError {
  const hint = 'nothing was changed; free some space or some files (df, df -i), then try again';
  return new VregError('STORE_UNUSABLE', `no room ${what}`, { hint, cause });
}

/** A file or a folder that shall be there after a power cut. */
function sync(path: string): void {
  const fd = openSync(path, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
