/**
 * The native addon of libsql in the single executable. The system can load an addon only from a file, so it is unpacked into a
 * private folder. The name of the file contains its hash, so that versions of vreg do not share it.
 */
import { webcrypto } from 'node:crypto';
import { accessSync, constants, lstatSync, readdirSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { getRawAsset } from 'node:sea';
import { createFolder, folderRisk, writeAtomically } from '../../src/files.ts';
import { isSingleExecutable } from '../../src/program.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { assertPrivate } from '../process/state-dir.ts';

/** Set by the build of the single executable: the SHA-256 of the addon in hexadecimal. */
declare const __ADDON_HASH__: string;
/** The name of the addon among the assets of the single executable. */
const ASSET = 'libsql.node';

let nativeDir: string | undefined;

/** Path of the unpacked addon; undefined if Node loads the addon from node_modules. */
export function addonPath(): string | undefined {
  return nativeDir === undefined ? undefined : join(nativeDir, `libsql-${__ADDON_HASH__.slice(0, 16)}.node`);
}

/**
 * Chooses the folder of the addon and unpacks the addon into it. Call it before the store is opened. Does nothing outside the
 * single executable.
 * @throws VregError as {@link ensureAddon}
 */
export async function unpackAddon(folder: string): Promise<void> {
  if (!isSingleExecutable) return;
  nativeDir = resolve(folder);
  await ensureAddon();
}

/**
 * Unpacks the addon, unless the folder already contains it: the folder may be a cache that the user has deleted since the start.
 * @throws VregError USAGE naming the setting if the folder cannot be used, is not private, or is on a file system without
 *   programs; STORE_UNUSABLE if the disk is full
 */
export async function ensureAddon(): Promise<void> {
  const file = addonPath();
  if (file === undefined) return;
  const dir = dirname(file);
  await attempt(dir, () => createFolder(dir, 0o700));
  assertPrivate(dir, 'native-dir');
  await attempt(dir, async () => {
    if (await isIntact(file)) return;
    // Each process writes a file of its own, because several may start at the same time.
    const draft = `${file}.${process.pid}.new`;
    writeAtomically(file, new Uint8Array(getRawAsset(ASSET) as ArrayBuffer), { mode: 0o500, draft });
    removeOthers(file);
  });
  try {
    // Fails with EACCES, also for root, if the file system is mounted with noexec (access(2)).
    accessSync(file, constants.X_OK);
  } catch (cause) {
    throw unusable(dir, 'its file system forbids programs (noexec)', cause);
  }
}

/** Milliseconds for which an unused file stays: far longer than a process takes to write a draft. */
const MAX_AGE = 24 * 60 * 60 * 1000;

/** Removes addons of other versions of vreg, which unpack theirs again if needed, and drafts of processes that were killed. */
function removeOthers(file: string): void {
  const dir = dirname(file);
  const names = readdirSync(dir).filter((name) => name.startsWith('libsql-') && name !== basename(file));
  for (const path of names.map((name) => join(dir, name))) {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats?.isFile() && stats.mtimeMs < Date.now() - MAX_AGE) rmSync(path, { force: true });
  }
}

/**
 * True if only this user or root may have written the file, and its content is that of the addon. Reading and hashing 10 MB takes
 * 30 ms, so both run in Node's thread pool.
 */
async function isIntact(file: string): Promise<boolean> {
  const stats = lstatSync(file, { throwIfNoEntry: false });
  if (!stats?.isFile() || folderRisk(stats)) return false;
  const hash = await webcrypto.subtle.digest('SHA-256', await readFile(file));
  return Buffer.from(hash).toString('hex') === __ADDON_HASH__;
}

async function attempt(dir: string, action: () => unknown): Promise<void> {
  try {
    await action();
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException;
    throw unusable(dir, code, cause, ['ENOSPC', 'EDQUOT'].includes(code));
  }
}

/** @param isFull true if the disk is full, which may change without a change of the settings */
function unusable(dir: string, reason: string, cause: unknown, isFull = false): VregError {
  const hint = 'choose a writable folder whose file system allows programs, with --native-dir or VREG_NATIVE_DIR';
  return new VregError(isFull ? 'STORE_UNUSABLE' : 'USAGE', `cannot unpack the SQLite library into ${dir}: ${reason}`, {
    field: 'native-dir',
    hint: isFull ? `free up space, or ${hint}` : hint,
    cause,
  });
}
