/** A backup becomes the registry of a data dir; what was there is kept beside it. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VregError } from '../src/protocol/errors.ts';
import { databaseSize, openDataDir } from './store/data-dir.ts';
import { check } from './store/sqlite.ts';

export interface Restored {
  dataDir: string;
  /** Folder with the files that were there before; absent when there were none. */
  kept?: string;
}

/**
 * @param file a backup, as `vreg backup` writes it
 * @throws VregError ALREADY_RUNNING (a daemon has the data dir), STORE_DAMAGED (the backup is), USAGE (it cannot be read)
 */
export async function restore(dataDir: string, file: string): Promise<Restored> {
  const dir = openDataDir(dataDir);
  const draft = openDataDir(mkdtempSync(join(dir.path, 'restore-')));
  try {
    copy(file, draft.database);
    await check(draft).catch((error: unknown) => {
      if (!(error instanceof VregError)) throw error;
      throw new VregError(
        'STORE_DAMAGED',
        `${file} cannot be restored: ${error.message.replace(draft.database, 'it')}`,
        {
          field: 'file',
          hint: 'nothing was changed; try an older backup',
        },
      );
    });
    if (databaseSize(dir) > 0) {
      await check(dir).catch((error: unknown) => {
        // A damaged store is what a restore is for; one that is in use is not.
        if (!(error instanceof VregError) || error.code !== 'STORE_DAMAGED') throw error;
      });
    }
    const old = [dir.database, `${dir.database}-wal`, dir.mark].filter((path) => existsSync(path));
    const kept = join(dir.path, `before-restore-${new Date().toISOString().replaceAll(':', '')}`);
    if (old.length > 0) mkdirSync(kept, { mode: 0o700 });
    for (const path of old) renameSync(path, join(kept, basename(path)));
    renameSync(draft.database, dir.database);
    return { dataDir: dir.path, ...(old.length > 0 ? { kept } : {}) };
  } finally {
    rmSync(draft.path, { recursive: true, force: true });
  }
}

function copy(from: string, to: string): void {
  try {
    copyFileSync(from, to);
  } catch (cause) {
    throw new VregError('USAGE', `cannot read ${from} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'file',
      hint: 'check its path and mode',
      cause,
    });
  }
}
