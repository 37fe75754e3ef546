/** Files that a setting names: read with an error that says which, and refused when they hold a secret that others can read. */
import { closeSync, constants, existsSync, fstatSync, openSync, readSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { looseMode } from '../files.ts';
import { VregError } from '../protocol/errors.ts';
import type { SettingKey } from './settings.ts';

/** Bytes: several times as many as the certificates of all public CAs have. */
const MAX_SIZE = 1_048_576;
const CHUNK = 65_536;
/** Milliseconds for who has opened a pipe, and may ask somebody for a passphrase before the secret is written. */
const WRITER_PATIENCE = 10_000;
/** Milliseconds for somebody to open a named pipe: who waits for its reader, as a shell does, is there at once. */
const OPEN_PATIENCE = 500;
/** Milliseconds until a pipe is looked at again. */
const AGAIN = 5;

export interface NamedFile {
  text: string;
  mode: number;
}

/**
 * A file, or what comes out of a pipe, as a shell makes one for `<(COMMAND)`. Waits for nothing without an end: a signal
 * would do nothing meanwhile.
 * @param what the file in words: `the CA file`
 * @throws VregError USAGE naming the setting when it cannot be read, is no file, or is too large
 */
export function readNamedFile(path: string, key: SettingKey, what: string): NamedFile {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    // Of what was opened, since another file may have the name by now.
    const stats = fstatSync(file);
    const refused = (why: string) => refusalOf(key, `${what} ${path} ${why}`);
    if (!stats.isFile() && !stats.isFIFO()) throw refused('is neither a file nor a pipe');
    return { text: readAll(file, stats.isFIFO(), refused), mode: stats.mode };
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    throw refusalOf(key, `cannot read ${what} ${path} (${(cause as NodeJS.ErrnoException).code})`, cause);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function refusalOf(key: SettingKey, message: string, cause?: unknown): VregError {
  return new VregError('USAGE', message, { field: key, hint: 'check its path and mode', cause });
}

function readAll(file: number, isPipe: boolean, refused: (why: string) => VregError): string {
  const started = performance.now();
  const chunks: Buffer[] = [];
  for (let size = 0; size <= MAX_SIZE; ) {
    const chunk = Buffer.allocUnsafe(CHUNK);
    const read = readSome(file, chunk);
    if (read) {
      chunks.push(chunk.subarray(0, read));
      size += read;
      continue;
    }
    const hasWriter = read === undefined;
    // A pipe that nobody has opened yet ends at once, like one that was closed.
    if (!hasWriter && (size > 0 || !isPipe)) return Buffer.concat(chunks).toString();
    const waited = performance.now() - started;
    if (hasWriter && waited > WRITER_PATIENCE) throw refused('is a pipe whose writer does not come to an end');
    if (!hasWriter && waited > OPEN_PATIENCE) throw refused('is a pipe into which nobody writes');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, AGAIN);
  }
  throw refused(`is larger than ${MAX_SIZE} bytes`);
}

/** @returns how many bytes were read; undefined when there are none yet */
function readSome(file: number, into: Buffer): number | undefined {
  try {
    return readSync(file, into);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

/**
 * As {@link readNamedFile}, for what only its owner may read: ssh refuses a key that others can read, too.
 * @param env with `CREDENTIALS_DIRECTORY`, whose files systemd guards by their folder (systemd.exec(5))
 */
export function readSecretFile(path: string, key: SettingKey, what: string, env: NodeJS.ProcessEnv): string {
  const { text, mode } = readNamedFile(path, key, what);
  refuseLoose(path, key, `${what} ${path}`, env, mode);
  return text;
}

/**
 * @param subject of the sentence that refuses it
 * @param mode of the file, where that was read; else it is looked at, and must be there
 * @throws VregError USAGE when others can read it
 */
export function refuseLoose(
  path: string,
  key: SettingKey,
  subject: string,
  env: NodeJS.ProcessEnv,
  mode = statSync(path).mode,
): void {
  const loose = looseMode(mode);
  if (loose === undefined || isCredential(path, env.CREDENTIALS_DIRECTORY)) return;
  throw new VregError('USAGE', `${subject} can be read by others (mode ${loose})`, {
    field: key,
    hint: `chmod 600 ${path}`,
  });
}

/** True of a file in that folder, wherever links and dots in its path lead. */
function isCredential(path: string, folder: string | undefined): boolean {
  return Boolean(folder) && existsSync(folder!) && realpathSync(path).startsWith(`${realpathSync(folder!)}/`);
}

/** Path of what `LoadCredential=NAME:FILE` of a unit hands over, if it does (systemd.exec(5)). */
export function credentialNamed(name: string, env: NodeJS.ProcessEnv): string | undefined {
  const dir = env.CREDENTIALS_DIRECTORY;
  const path = dir ? join(dir, name) : undefined;
  return path !== undefined && existsSync(path) ? path : undefined;
}
