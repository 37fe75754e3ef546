/**
 * Opens the config file for writing. conf replaces the file atomically, but takes 50 ms to load, so config.ts reads the file
 * without it.
 */
import type { Context } from '../command.ts';
import { createFolder } from '../files.ts';

export async function openConfigFile({ config }: Context) {
  // Reading throws if the file is invalid, so an invalid file is not overwritten.
  void config.file;
  // conf would create the folder with a mode that depends only on the umask.
  createFolder(config.dir, 0o700);
  const { default: Conf } = await import('conf');
  return new Conf<Record<string, unknown>>({
    cwd: config.dir,
    configName: 'config',
    configFileMode: 0o600,
    accessPropertiesByDotNotation: false,
  });
}
