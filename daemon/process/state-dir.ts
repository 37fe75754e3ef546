/** The folder in which a daemon or an agent keeps its files. Only its owner may write there. */
import { type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { createFolder, folderRisk } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';

/**
 * Creates the folder with mode 0700 if it does not exist.
 * @throws VregError STORE_UNUSABLE
 */
export function makeStateDir(dir: string): void {
  try {
    createFolder(dir, 0o700);
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
}

/**
 * Warns if other users can replace files in the folder, and with them the registry, a token or an identity. The folder
 * is used anyway: container volumes are often writable by everyone, and no other user can reach them.
 */
export function warnOfOpenFolder(path: string, log: { warn(fields: object, message: string): void }): void {
  const folder = resolve(path);
  const found = statIfThere(folder);
  const risk = found && folderRisk(found);
  if (!risk) return;
  if ('mode' in risk) {
    log.warn({ path: folder }, `others may write into ${folder} (mode ${risk.mode}): chmod go-w ${folder}`);
    return;
  }
  // Root often works in folders of other users, for example in a container that mounts a folder of its host.
  if (process.geteuid?.() === 0) return;
  log.warn({ path: folder }, `${folder} belongs to another user (uid ${risk.uid}), who can change it`);
}

/** @returns undefined if the folder cannot be examined; its next use reports the problem */
function statIfThere(folder: string): Stats | undefined {
  try {
    return statSync(folder);
  } catch {
    return undefined;
  }
}

export function unusableStateDir(dir: string, cause: unknown): VregError {
  return new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir} (${(cause as NodeJS.ErrnoException).code})`, {
    hint: 'make it a folder that this user may write, or choose another with --data-dir',
    cause,
  });
}
