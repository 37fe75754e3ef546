/**
 * Changes the config file. conf replaces the file atomically, but takes 50 ms to load, so config.ts reads the file without it.
 * A lock makes each change see the previous one.
 */
import type { Context } from '../command.ts';
import { createFolder } from '../files.ts';
import { VregError } from '../protocol/errors.ts';
import { type ConfigContent, checkConfigKeys, readConfigFile } from './config-content.ts';

/** Milliseconds after which the lock of a process that was killed is removed; the minimum of proper-lockfile is 2 s. */
const STALE_LOCK = 5000;
/** Milliseconds to wait for the lock: longer than {@link STALE_LOCK}. A change takes a few milliseconds. */
const LOCK_TIMEOUT = 15_000;
/** Mean delay in milliseconds between two attempts to get the lock. */
const RETRY_DELAY = 30;

/**
 * Reads the config file, applies a change, and writes the result.
 * @param change @returns the new content; may throw
 * @param replaced the setting that the change replaces or removes, whatever its key and its value are
 * @throws VregError USAGE if the file is not a JSON object, has an unknown key or cannot be written, CONFLICT if another process holds the lock
 */
export async function changeConfigFile(
  context: Context,
  change: (content: ConfigContent) => ConfigContent,
  replaced?: string,
): Promise<void> {
  const { config } = context;
  const [{ default: Conf }, { lock }] = await Promise.all([import('conf'), import('proper-lockfile')]);
  try {
    // conf would create the folder with a mode that depends only on the umask.
    createFolder(config.dir, 0o700);
    const release = await lockFile(context, () => lock(config.path, { realpath: false, stale: STALE_LOCK }));
    try {
      config.reload();
      // Reading and checking throw if the file is invalid, so that a change does not lose its content.
      const before = readConfigFile(config.path);
      if (before) checkConfigKeys(before, replaced);
      const content = change((before?.content ?? {}) as ConfigContent);
      const file = new Conf<Record<string, unknown>>({
        cwd: config.dir,
        configName: 'config',
        configFileMode: 0o600,
        accessPropertiesByDotNotation: false,
        serialize: (value) => `${JSON.stringify(value, undefined, 2)}\n`,
      });
      file.store = content;
      config.reload();
    } finally {
      await release();
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (cause instanceof VregError || code === undefined) throw cause;
    throw new VregError('USAGE', `cannot write the config file ${config.path} (${code})`, {
      hint: 'check the owner and mode of its folder, or choose another one with XDG_CONFIG_HOME',
      cause,
    });
  }
}

async function lockFile<T>(context: Context, lock: () => Promise<T>): Promise<T> {
  const started = performance.now();
  for (;;) {
    try {
      return await lock();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error;
      if (performance.now() - started > LOCK_TIMEOUT)
        throw new VregError('CONFLICT', `another process is changing the config file ${context.config.path}`, {
          hint: 'try again when it has finished',
        });
    }
    await context.sleep(RETRY_DELAY * (0.5 + Math.random()));
  }
}
