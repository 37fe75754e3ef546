/** A backup becomes the registry of a data dir; what was there is kept beside it. */
import {
  chmodSync,
  closeSync,
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
import { VregError } from '../src/protocol/errors.ts';
import { type Held, hold } from './store/check.ts';
import { DATABASE, type DataDir, openDataDir } from './store/data-dir.ts';
import { atOpen, type Failure, StoreFailure } from './store/failures.ts';

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
  const draft = openDataDir(mkdtempSync(join(dir.path, 'restore-')));
  let held: Held | undefined;
  try {
    copyAll(file, draft);
    await checkCopy(file, draft);
    // No daemon can open it until what takes its place is there.
    if (existsSync(dir.database)) held = await hold(dir);
    if (held && 'failure' in held.finding && mayBeInUse(held.finding.failure)) {
      throw atOpen(dir, new StoreFailure(held.finding.failure));
    }
    const kept = exchange(dir, draft);
    return { dataDir: dir.path, ...(kept === undefined ? {} : { kept }) };
  } finally {
    await held?.release();
    rmSync(draft.path, { recursive: true, force: true });
  }
}

/** A damaged store is what a restore is for, and one of a newer vreg may be; one that is in use is not. */
function mayBeInUse({ kind }: Failure): boolean {
  return kind !== 'damaged' && kind !== 'newer';
}

/** @throws VregError STORE_DAMAGED, STORE_NEWER, STORE_UNUSABLE */
async function checkCopy(file: string, draft: DataDir): Promise<void> {
  const { finding, release } = await hold(draft);
  await release();
  if ('failure' in finding) {
    const error = atOpen(draft, new StoreFailure(finding.failure));
    // One of a newer vreg is whole, and one that could not be checked may be.
    const hint = error.code === 'STORE_DAMAGED' ? damagedHint(draft) : error.hint!;
    const message = error.message.replace(draft.database, 'it').replace(draft.path, dirname(file));
    throw new VregError(error.code, `${file} cannot be restored: ${message}`, { field: 'file', hint });
  }
  // It is whole all the same.
  if (finding.isEmpty) {
    throw new VregError('STORE_DAMAGED', `${file} cannot be restored: it is not the database of a vreg registry`, {
      field: 'file',
      hint: 'nothing was changed; give a file that vreg backup wrote',
    });
  }
}

/** @returns the folder with what was there before */
function exchange(dir: DataDir, draft: DataDir): string | undefined {
  // A journal that stayed would undo what is put beside it.
  const old = [dir.database, dir.log, dir.journal, dir.mark].filter((path) => existsSync(path));
  const kept = join(dir.path, `before-restore-${new Date().toISOString().replaceAll(':', '')}`);
  if (old.length > 0) mkdirSync(kept, { mode: 0o700 });
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
    copyFileSync(from, to);
    chmodSync(to, 0o600);
    sync(to);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      const hint = 'nothing was changed; free some space, then try again';
      throw new VregError('STORE_UNUSABLE', `no room for a copy of ${from} in ${dirname(to)}`, { hint, cause });
    }
    throw new VregError('USAGE', `cannot read ${from} (${code})`, {
      field: 'file',
      hint: 'check its path and mode',
      cause,
    });
  }
}

/** A file or a folder that shall be there after a power cut. */
function sync(path: string): void {
  const fd = openSync(path, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
