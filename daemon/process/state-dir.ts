/** The folders in which a daemon or an agent keeps its files. Only its user may write there. */
import { resolve } from 'node:path';
import { createFolder, folderFault } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';

/**
 * Creates the folder with mode 0700 if it does not exist.
 * @throws VregError STORE_UNUSABLE; USAGE as {@link assertPrivate}
 */
export function makeStateDir(dir: string): void {
  try {
    createFolder(dir, 0o700);
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
  assertPrivate(dir, 'data-dir');
}

/**
 * Checks that no other user may write to a folder. Such a user could replace the registry, a token, an identity, a pid file or
 * an address.
 * @param setting the setting that contains the path of the folder
 * @param user id of the user who may write to it, besides root; by default the user of this process
 * @throws VregError USAGE
 */
export function assertPrivate(path: string, setting: 'data-dir' | 'native-dir' | 'run-dir', user?: number): void {
  const folder = resolve(path);
  const fault = folderFault(folder, user);
  if (!fault) return;
  throw new VregError('USAGE', `refusing to use the folder ${folder}: ${fault.reason}`, {
    field: setting,
    hint: `make it private: ${fault.command}; or choose another folder with --${setting}`,
  });
}

export function unusableStateDir(dir: string, cause: unknown): VregError {
  return new VregError('STORE_UNUSABLE', `cannot use the data dir ${dir} (${(cause as NodeJS.ErrnoException).code})`, {
    field: 'data-dir',
    hint: 'use a folder that this user can write to, or choose another with --data-dir',
    cause,
  });
}
