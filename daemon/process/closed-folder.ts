/** The data dir is for its owner alone: whoever may write there can put a registry, a token or an identity of his own into it. */
import { type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';

/**
 * Warns of a folder in which others could replace what is there. It is used all the same: the volumes of containers are
 * often of that kind, and nobody else gets at them.
 */
export function warnOfOpenFolder(path: string, log: { warn(fields: object, message: string): void }): void {
  const folder = resolve(path);
  const found = look(folder);
  if (!found) return;
  const { mode, uid } = found;
  // With the sticky bit, as /tmp has it, only the owner of a file may replace it (inode(7)).
  const isOpen = (mode & 0o022) !== 0 && (mode & 0o1000) === 0;
  const me = process.geteuid?.() ?? 0;
  // Root works with what others own, as in a container with a folder of its host.
  const isOfAnother = me !== 0 && uid !== 0 && uid !== me;
  const octal = (mode & 0o7777).toString(8).padStart(4, '0');
  if (isOpen) log.warn({ path: folder }, `others may write into ${folder} (mode ${octal}): chmod go-w ${folder}`);
  else if (isOfAnother) log.warn({ path: folder }, `another user (uid ${uid}) owns ${folder}, and may change it`);
}

/** @returns undefined also where it cannot be looked at: whoever uses it then says so */
function look(folder: string): Stats | undefined {
  try {
    return statSync(folder);
  } catch {
    return undefined;
  }
}
