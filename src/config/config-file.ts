/** Opens the config file for writing, through conf, which replaces it atomically. config.ts reads it without conf, whose loading takes 50 ms. */

import type { Context } from '../command.ts';
import { createFolder } from '../files.ts';

export async function openConfigFile({ config }: Context) {
  // Throws if the file cannot be read, so that it is not overwritten.
  void config.file;
  // conf would create the folder with the mode of the umask.
  createFolder(config.dir, 0o700);
  const { default: Conf } = await import('conf');
  return new Conf<Record<string, unknown>>({
    cwd: config.dir,
    configName: 'config',
    configFileMode: 0o600,
    accessPropertiesByDotNotation: false,
  });
}
