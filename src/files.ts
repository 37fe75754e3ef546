/** Atomic writes of files, and checks whether other users may read, create or replace a file. */
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';

/** Permissions of group and others. */
const NOT_OWNER = 0o077;
/** Write permission of group and others. */
const WRITABLE_BY_OTHERS = 0o022;
/** The sticky bit: only the owner of a file may replace it in such a folder, as in /tmp (inode(7)). */
const STICKY = 0o1000;

export interface AtomicWrite {
  /** Mode of the new file before the umask is applied; 0666 by default. */
  mode?: number;
  /** Gives the new file the mode of the file that it replaces, if there is one. */
  keepMode?: boolean;
  /**
   * Syncs the content to the disk before the file gets its name. The name itself becomes durable with {@link syncPath} of the
   * folder.
   */
  sync?: boolean;
  /** Path of the temporary file; `PATH.new` by default, so the next write removes a file that a killed process left behind. */
  draft?: string;
}

/**
 * Replaces a file atomically: a reader sees either the old content or the new content.
 * @throws the file system's errors; the file is then unchanged
 */
export function writeAtomically(
  path: string,
  text: string | Uint8Array,
  { mode = 0o666, keepMode = false, sync = false, draft = `${path}.new` }: AtomicWrite = {},
): void {
  const replaced = keepMode ? statSync(path, { throwIfNoEntry: false }) : undefined;
  // A leftover temporary file may have another mode, or be a link to another file.
  removeIfThere(draft);
  const file = openSync(draft, 'wx', mode);
  try {
    try {
      writeFileSync(file, text);
      if (replaced) fchmodSync(file, replaced.mode & 0o7777);
      if (sync) fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(draft, path);
  } catch (error) {
    removeIfThere(draft);
    throw error;
  }
}

/**
 * Creates a folder and its missing parents. Node's `mkdirSync` with `recursive` never returns for a path such as
 * `/proc/x`, where each mkdir(2) fails with ENOENT although the parent exists (nodejs/node 20).
 * @returns the folders that did not exist, outermost first
 * @throws the file system's errors
 */
export function createFolder(path: string, mode = 0o777): string[] {
  try {
    return makeIfMissing(path, mode) ? [path] : [];
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || parent === path) throw error;
    const created = createFolder(parent, mode);
    return makeIfMissing(path, mode) ? [...created, path] : created;
  }
}

/** @returns false if the folder exists: another process may create it at the same time */
function makeIfMissing(path: string, mode: number): boolean {
  try {
    mkdirSync(path, mode);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST' && isFolder(path)) return false;
    throw error;
  }
}

function isFolder(path: string): boolean {
  return statIfThere(path, statSync)?.isDirectory() === true;
}

/** Bytes per read of a pipe or a terminal: the capacity of a Linux pipe (pipe(7)). */
const CHUNK = 65_536;
/** Milliseconds between two reads of a pipe or a terminal without new data. */
const POLL_INTERVAL = 10;

/**
 * Reads a file. Reads a pipe or a terminal, such as `/dev/stdin` or the shell's `<(COMMAND)`, without blocking a thread: a thread
 * that waits for a writer would prevent the process from handling a signal, or from exiting.
 * @param sleep waits for `ms` milliseconds; if it rejects, the read ends
 * @throws the file system's errors
 */
export async function readFileOrPipe(path: string, sleep: (ms: number) => Promise<void>): Promise<string> {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    const stats = fstatSync(file);
    if (stats.isFile() || stats.isDirectory()) return readFileSync(file, 'utf8');
    // A named pipe reports the end of the file until a writer opens it. The writer of an inherited pipe already has.
    let isWaiting = stats.isFIFO() && !/^\/(dev|proc)\//.test(path);
    const chunks: Buffer[] = [];
    for (;;) {
      const chunk = readChunk(file);
      if (chunk?.length === 0 && !isWaiting) return Buffer.concat(chunks).toString();
      const hasData = chunk !== undefined && chunk.length > 0;
      if (hasData) {
        chunks.push(chunk);
        isWaiting = false;
      }
      await sleep(hasData ? 0 : POLL_INTERVAL);
    }
  } finally {
    closeSync(file);
  }
}

/** @returns an empty buffer at the end of the file, undefined if no data is available yet */
function readChunk(file: number): Buffer | undefined {
  const chunk = Buffer.allocUnsafe(CHUNK);
  try {
    return chunk.subarray(0, readSync(file, chunk));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

/** @returns undefined if there is no file that this process can read */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/**
 * Reads a file that another user might have replaced by a link or a pipe.
 * @returns undefined if there is no regular file that this process can read
 */
export function readRegularFile(path: string): { text: string; uid: number } | undefined {
  try {
    const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = fstatSync(file);
      return stats.isFile() ? { text: readFileSync(file, 'utf8'), uid: stats.uid } : undefined;
    } finally {
      closeSync(file);
    }
  } catch {
    return undefined;
  }
}

/** Makes a file, or the entries of a folder, survive a power loss. @throws the file system's errors */
export function syncPath(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** @returns the mode in octal, e.g. `0644`, if group or others have any permission; undefined if only the owner has */
export function looseMode(mode: number): string | undefined {
  return (mode & NOT_OWNER) === 0 ? undefined : octal(mode & 0o777);
}

/**
 * Reports whether other users may replace files in a folder.
 * @returns `mode` in octal if group or others may, `uid` of the owner if it is neither root nor the user of this process
 */
export function folderRisk({ mode, uid }: Pick<Stats, 'mode' | 'uid'>): { mode: string } | { uid: number } | undefined {
  if ((mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0) return { mode: octal(mode & 0o7777) };
  return uid !== 0 && uid !== (process.geteuid?.() ?? 0) ? { uid } : undefined;
}

/**
 * Checks whether another user may create or replace files in a folder. Unlike {@link folderRisk}, it rejects folders with the
 * sticky bit, such as /tmp, where another user may create a file with the expected name first.
 * @param path absolute
 * @param user id of the user who may write to it, besides root
 * @returns the reason why the folder is not private, and a command that makes it private; undefined if it is private
 */
export function folderFault(
  path: string,
  user = process.geteuid?.() ?? 0,
): { reason: string; command: string } | undefined {
  const isForeign = ({ uid }: Stats) => uid !== 0 && uid !== user;
  const folder = statIfThere(path, statSync);
  if (folder && (folder.mode & WRITABLE_BY_OTHERS) !== 0) {
    const isSticky = (folder.mode & STICKY) !== 0;
    const command = isSticky ? `install -d -m 0700 ${join(path, 'vreg')}` : `chmod go-w ${path}`;
    return { reason: `other users may write to it (mode ${octal(folder.mode & 0o7777)})`, command };
  }
  // Another user who may write to a folder above, or who owns a link on the way, could put another folder in its place.
  for (const at of upwardsFrom(path)) {
    const found = [statIfThere(at, lstatSync), statIfThere(at, statSync)];
    const owner = found.find((each) => each && isForeign(each))?.uid;
    const which = at === path ? 'it' : at;
    if (owner !== undefined)
      return { reason: `another user owns ${which} (uid ${owner})`, command: `chown -h ${user} ${at}` };
    const mode = found[1]?.mode ?? 0;
    if ((mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0)
      return {
        reason: `other users may replace it in ${at} (mode ${octal(mode & 0o7777)})`,
        command: `chmod go-w ${at}`,
      };
  }
  const real = realPathOf(path);
  return real === path ? undefined : folderFault(real, user);
}

/** Newer versions of Node throw ENOTDIR despite `throwIfNoEntry: false`. */
function statIfThere(path: string, stat: (path: string) => Stats): Stats | undefined {
  try {
    return stat(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/** The path and the folders above it, innermost first. */
function* upwardsFrom(path: string): Generator<string> {
  yield path;
  const parent = dirname(path);
  if (parent !== path) yield* upwardsFrom(parent);
}

/** The path without symbolic links; the part that does not exist stays as it is. */
function realPathOf(path: string): string {
  if (existsSync(path)) return realpathSync(path);
  return join(realPathOf(dirname(path)), basename(path));
}

function octal(mode: number): string {
  return mode.toString(8).padStart(4, '0');
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
