/** Files that a setting names: read with an error that says which, and refused when they hold a secret that others can read. */
import { existsSync, readFileSync, statSync } from 'node:fs';
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
  const { mode } = statSync(path);
  const credentials = env.CREDENTIALS_DIRECTORY;
  const guarded = credentials !== undefined && path.startsWith(`${credentials}/`);
  if ((mode & 0o077) !== 0 && !guarded) {
    throw new VregError(
      'USAGE',
      `${what} ${path} can be read by others (mode ${(mode & 0o777).toString(8).padStart(4, '0')})`,
      { field: key, hint: `chmod 600 ${path}` },
    );
  }
  return text;
}

/** Path of what `LoadCredential=NAME:FILE` of a unit hands over, if it does (systemd.exec(5)). */
export function credentialNamed(name: string, env: NodeJS.ProcessEnv): string | undefined {
  const dir = env.CREDENTIALS_DIRECTORY;
  const path = dir ? join(dir, name) : undefined;
  return path !== undefined && existsSync(path) ? path : undefined;
}
