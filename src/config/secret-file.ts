/** Reads files and pipes that settings name. Errors name the setting. A secret that other users can read is refused. */
import { closeSync, constants, existsSync, fstatSync, openSync, readSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { looseMode } from '../files.ts';
import { VregError, withMessage } from '../protocol/errors.ts';
import type { SettingKey } from './settings.ts';

/** Maximum size in bytes: several times that of a bundle of all public CAs. */
const MAX_SIZE = 1_048_576;
/** Bytes per read: the capacity of a Linux pipe (pipe(7)). */
const CHUNK = 65_536;
/** Milliseconds to wait for data after a writer has opened the pipe: it may ask the user for a passphrase first. */
const WRITE_TIMEOUT = 10_000;
/** Milliseconds to wait until a writer opens the pipe: a shell opens it immediately. */
const OPEN_TIMEOUT = 500;
/** Milliseconds between two reads of an empty pipe. */
const POLL_INTERVAL = 5;

export interface NamedFile {
  bytes: Buffer;
  mode: number;
}

/**
 * Reads a file or a pipe, such as the shell's `<(COMMAND)`. Blocks the process, so every wait has a timeout.
 * @param what description for error messages, for example `the CA file`
 * @throws VregError USAGE naming the setting if it cannot be read, is neither file nor pipe, or is too large
 */
export function readNamedFile(path: string, key: SettingKey, what: string): NamedFile {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    // Use the descriptor, because the path may name another file by now.
    const stats = fstatSync(file);
    const refused = (why: string) => refusalOf(key, `${what} ${path} ${why}`);
    if (!stats.isFile() && !stats.isFIFO()) throw refused('is neither a file nor a pipe');
    const bytes = stats.isFIFO()
      ? withDefaultSignals(() => readAll(file!, true, refused))
      : readAll(file, false, refused);
    return { bytes, mode: stats.mode };
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    throw refusalOf(key, `cannot read ${what} ${path} (${(cause as NodeJS.ErrnoException).code})`, cause);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/**
 * Adds the origin of a path to the errors of `work`, which concern the file: `cannot read … (ENOENT, from VREG_TOKEN_FILE)`.
 * @param origin `flag --token-file`, `VREG_TOKEN_FILE`, `context prod` and so on
 */
export function namingOrigin<T>(origin: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof VregError ? withOrigin(error, origin) : error;
  }
}

/** As {@link namingOrigin}, for an error that was caught. */
export function withOrigin(error: VregError, origin: string): VregError {
  const [, before, reason] = /^(.*) \((.*)\)$/s.exec(error.message) ?? [undefined, error.message, undefined];
  return withMessage(error, `${before} (${reason === undefined ? '' : `${reason}, `}from ${origin})`);
}

function refusalOf(key: SettingKey, message: string, cause?: unknown): VregError {
  return new VregError('USAGE', message, { field: key, hint: 'check its path and mode', cause });
}

/**
 * Runs `work`, during which SIGINT and SIGTERM end the process at once: a process that is blocked runs no handler.
 */
function withDefaultSignals<T>(work: () => T): T {
  const handled = (['SIGINT', 'SIGTERM'] as const).map((signal) => ({ signal, handlers: process.listeners(signal) }));
  // Without a handler, Node restores the default action of a signal.
  for (const { signal } of handled) process.removeAllListeners(signal);
  try {
    return work();
  } finally {
    for (const { signal, handlers } of handled) for (const handler of handlers) process.on(signal, handler);
  }
}

function readAll(file: number, isPipe: boolean, refused: (why: string) => VregError): Buffer {
  const started = performance.now();
  const chunks: Buffer[] = [];
  for (let size = 0; size <= MAX_SIZE; ) {
    const chunk = Buffer.allocUnsafe(CHUNK);
    const read = readAvailable(file, chunk);
    if (read) {
      chunks.push(chunk.subarray(0, read));
      size += read;
      continue;
    }
    const hasWriter = read === undefined;
    // Reading a pipe without a writer reports the end of the file, as if a writer had closed it.
    if (!hasWriter && (size > 0 || !isPipe)) return Buffer.concat(chunks);
    const waited = performance.now() - started;
    if (hasWriter && waited > WRITE_TIMEOUT) throw refused('is a pipe whose writer does not close it');
    if (!hasWriter && waited > OPEN_TIMEOUT) throw refused('is a pipe without a writer');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, POLL_INTERVAL);
  }
  throw refused(`is larger than ${MAX_SIZE} bytes`);
}

/** @returns the number of bytes read, 0 at the end, undefined if none are available yet */
function readAvailable(file: number, into: Buffer): number | undefined {
  try {
    return readSync(file, into);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

/**
 * Same as {@link readNamedFile}, but refuses a file that other users can read, as ssh does.
 * @param env environment with `CREDENTIALS_DIRECTORY`, whose folder systemd protects (systemd.exec(5))
 */
export function readSecretFile(path: string, key: SettingKey, what: string, env: NodeJS.ProcessEnv): string {
  const { bytes, mode } = readNamedFile(path, key, what);
  refuseLoose(path, key, `${what} ${path}`, env, mode);
  return bytes.toString();
}

/**
 * @param subject of the error message
 * @param mode mode of the file, if known; otherwise the file must exist
 * @throws VregError USAGE if other users can read the file
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
  throw new VregError('USAGE', `${subject} can be read by other users (mode ${loose})`, {
    field: key,
    hint: `chmod 600 ${path}`,
  });
}

/** True if the file is in the folder, after symbolic links and dot segments are resolved. */
function isCredential(path: string, folder: string | undefined): boolean {
  return Boolean(folder) && existsSync(folder!) && realpathSync(path).startsWith(`${realpathSync(folder!)}/`);
}

/** Path of the credential that a unit loads with `LoadCredential=NAME:FILE`, if any (systemd.exec(5)). */
export function credentialNamed(name: string, env: NodeJS.ProcessEnv): string | undefined {
  const dir = env.CREDENTIALS_DIRECTORY;
  const path = dir ? join(dir, name) : undefined;
  return path !== undefined && existsSync(path) ? path : undefined;
}
