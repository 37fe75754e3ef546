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
  readSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type ErrorCode, VregError } from '../src/protocol/errors.ts';
import { check } from './store/check.ts';
import { databaseSize, openDataDir } from './store/data-dir.ts';

/** Where SQLite keeps the application id in a file, and ours: a file without it may be empty, and still whole. */
const APPLICATION_ID = { offset: 68, text: 'vreg' };

/** What may be wrong with a store that is replaced: all of it is kept. */
const REPLACEABLE: readonly ErrorCode[] = ['STORE_DAMAGED', 'STORE_NEWER'];

export interface Restored {
  dataDir: string;
  /** Folder with the files that were there before; absent when there were none. */
  kept?: string;
}

/**
 * @param file a backup, as `vreg backup` writes it
 * @throws VregError ALREADY_RUNNING (a daemon has the data dir), STORE_DAMAGED (the backup is), STORE_NEWER (the backup
 * is of a newer vreg), STORE_UNUSABLE (no room, say), USAGE (the backup cannot be read)
 */
export async function restore(dataDir: string, file: string): Promise<Restored> {
  const dir = openDataDir(dataDir);
  const draft = openDataDir(mkdtempSync(join(dir.path, 'restore-')));
  try {
    copy(file, draft.database);
    if (!isOurs(draft.database)) {
      throw new VregError('STORE_DAMAGED', `${file} cannot be restored: it is not the database of a vreg registry`, {
        field: 'file',
        hint: 'nothing was changed; give a file that vreg backup wrote',
      });
    }
    await check(draft).catch((error: unknown) => {
      if (!(error instanceof VregError)) throw error;
      // One of a newer vreg is whole, and one that could not be checked may be.
      const hint = error.code === 'STORE_DAMAGED' ? 'nothing was changed; try an older backup' : error.hint!;
      const message = error.message.replace(draft.database, 'it');
      throw new VregError(error.code, `${file} cannot be restored: ${message}`, { field: 'file', hint });
    });
    if (databaseSize(dir) > 0) {
      await check(dir).catch((error: unknown) => {
        // A damaged store is what a restore is for, and one of a newer vreg may be; one that is in use is not.
        if (!(error instanceof VregError) || !REPLACEABLE.includes(error.code)) throw error;
      });
    }
    // A journal that stayed would undo what is put beside it.
    const old = [dir.database, dir.log, dir.journal, dir.mark].filter((path) => existsSync(path));
    const kept = join(dir.path, `before-restore-${new Date().toISOString().replaceAll(':', '')}`);
    if (old.length > 0) mkdirSync(kept, { mode: 0o700 });
    const keep = (path: string) => renameSync(path, join(kept, basename(path)));
    for (const path of old) if (path !== dir.mark) keep(path);
    renameSync(draft.database, dir.database);
    // The mark goes last, so that a restore which is cut off leaves an error for the next start, and no empty registry.
    sync(dir.path);
    if (old.includes(dir.mark)) keep(dir.mark);
    sync(dir.path);
    return { dataDir: dir.path, ...(old.length > 0 ? { kept } : {}) };
  } finally {
    rmSync(draft.path, { recursive: true, force: true });
  }
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

function isOurs(file: string): boolean {
  const { offset, text } = APPLICATION_ID;
  const bytes = Buffer.alloc(text.length);
  const fd = openSync(file, 'r');
  readSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
  return bytes.toString('latin1') === text;
}

/** A file or a folder that shall be there after a power cut. */
function sync(path: string): void {
  const fd = openSync(path, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
