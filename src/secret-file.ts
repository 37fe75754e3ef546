/** Files that a setting names: read with an error that says which, and refused when they hold a secret that others can read. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { VregError } from './protocol/errors.ts';
import type { SettingKey } from './settings.ts';

/** @param what the file in words: `the CA file` @throws VregError USAGE naming the setting when it cannot be read */
export function readNamedFile(path: string, key: SettingKey, what: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new VregError('USAGE', `cannot read ${what} ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      field: key,
      hint: 'check its path and mode',
      cause,
    });
  }
}

/**
 * As {@link readNamedFile}, for what only its owner may read: ssh refuses a key that others can read, too.
 * @param env with `CREDENTIALS_DIRECTORY`, whose files systemd guards by their folder (systemd.exec(5))
 */
export function readSecretFile(path: string, key: SettingKey, what: string, env: NodeJS.ProcessEnv): string {
  const text = readNamedFile(path, key, what);
  refuseLoose(path, key, `${what} ${path}`, env);
  return text;
}

/** @param subject of the sentence that refuses it @throws VregError USAGE when others can read the file, which is there */
export function refuseLoose(path: string, key: SettingKey, subject: string, env: NodeJS.ProcessEnv): void {
  const { mode } = statSync(path);
  if ((mode & 0o077) === 0 || isCredential(path, env.CREDENTIALS_DIRECTORY)) return;
  const octal = (mode & 0o777).toString(8).padStart(4, '0');
  throw new VregError('USAGE', `${subject} can be read by others (mode ${octal})`, {
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
