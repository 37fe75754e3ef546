/** The data dir is for its owner alone: whoever may write there can put a registry, a token or an identity of his own into it. */
import { type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { VregError } from '../src/protocol/errors.ts';

/**
 * Does nothing where there is no such folder, which is made closed.
 * @throws VregError STORE_UNUSABLE when others could replace what is in it
 */
export function refuseOpenFolder(path: string): void {
  const folder = resolve(path);
  const found = look(folder);
  if (!found?.isDirectory()) return;
  const { mode, uid } = found;
  // With the sticky bit, as /tmp has it, only the owner of a file may replace it (inode(7)).
  const isOpen = (mode & 0o022) !== 0 && (mode & 0o1000) === 0;
  const me = process.geteuid?.() ?? 0;
  // Root works with what others own, as in a container with a folder of its host.
  const isOfAnother = me !== 0 && uid !== 0 && uid !== me;
  if (!isOpen && !isOfAnother) return;
  const who = isOpen
    ? `others may write there (mode ${(mode & 0o7777).toString(8).padStart(4, '0')})`
    : `another user owns it (uid ${uid})`;
  throw new VregError('STORE_UNUSABLE', `refusing to use the data dir ${folder}: ${who}`, {
    hint: isOpen ? `chmod go-w ${folder}, or choose a folder of your own` : 'choose a folder of your own',
  });
}

/** @returns undefined also where it cannot be looked at: whoever uses it then says so */
function look(folder: string): Stats | undefined {
  try {
    return statSync(folder);
  } catch {
    return undefined;
  }
}
