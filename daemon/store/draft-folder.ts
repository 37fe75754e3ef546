/**
 * Temporary folders for copies of a backup, which contain hashes of tokens. A process that is killed cannot remove its folder, so
 * the next one does.
 */
import { lstatSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { readIfThere } from '../../src/files.ts';
import { isRunning, markOf, type ProcessMark, pidNamespace } from '../process/other-process.ts';

/** Prefix of the folders in a data dir in which a restore checks the backup. */
export const RESTORE_PREFIX = 'restore-';
/** File in the folder that names the process which uses it. */
const OWNER = 'owner.json';
/** Number of random characters that `mkdtemp` appends. */
const RANDOM_LENGTH = 6;
/** Milliseconds after which a folder of another container counts as abandoned: far longer than a restore takes. */
const MAX_AGE = 24 * 60 * 60 * 1000;

interface Owner extends ProcessMark {
  /** Containers that share a temporary folder have processes with the same pids. */
  namespace?: string | undefined;
}

export interface DraftFolder {
  path: string;
  /** Removes the folder. It is also removed if the process exits before. */
  remove(): void;
}

/**
 * Creates a folder with mode 0700, after it has removed those that killed processes left.
 * @param prefix path without its last, random characters
 * @throws the errors of the file system
 */
export function createDraftFolder(prefix: string): DraftFolder {
  removeAbandonedDrafts(prefix);
  const path = mkdtempSync(prefix);
  const removeFiles = () => rmSync(path, { recursive: true, force: true });
  // A second signal ends the program without a chance to clean up.
  process.once('exit', removeFiles);
  const remove = () => {
    process.off('exit', removeFiles);
    removeFiles();
  };
  try {
    const owner: Owner = { ...markOf(process.pid), namespace: pidNamespace() };
    writeFileSync(join(path, OWNER), JSON.stringify(owner), { mode: 0o600 });
  } catch (error) {
    remove();
    throw error;
  }
  return { path, remove };
}

/** Removes the folders of processes that no longer run, and old ones of other containers. Never throws: the next call tries again. @param prefix as above */
export function removeAbandonedDrafts(prefix: string): void {
  for (const name of namesIn(dirname(prefix))) {
    const path = join(dirname(prefix), name);
    const isDraft = name.startsWith(basename(prefix)) && name.length === basename(prefix).length + RANDOM_LENGTH;
    try {
      if (isDraft && isAbandoned(path)) rmSync(path, { recursive: true, force: true });
    } catch {
      // Another process may be removing the same folder, or its owner was killed while it wrote the file.
    }
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** False for a folder in which another user could exchange files while they are removed. */
function isAbandoned(path: string): boolean {
  const found = lstatSync(path);
  if (!found.isDirectory() || found.uid !== process.getuid?.() || (found.mode & 0o077) !== 0) return false;
  const text = readIfThere(join(path, OWNER));
  if (text === undefined) return false;
  const owner = JSON.parse(text) as Owner;
  const isElsewhere = owner.namespace !== undefined && owner.namespace !== pidNamespace();
  return isElsewhere ? found.mtimeMs < Date.now() - MAX_AGE : !isRunning(owner);
}
