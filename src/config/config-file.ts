/** The config file, to write into it. conf writes it whole and in one step, and is slow to load: reading is config.ts's. */
import { mkdirSync } from 'node:fs';
import type { Context } from '../command.ts';

export async function openConfigFile({ config }: Context) {
  // A file that cannot be read shall not be overwritten.
  void config.file;
  // conf would make the folder as the umask has it.
  mkdirSync(config.dir, { recursive: true, mode: 0o700 });
  const { default: Conf } = await import('conf');
  return new Conf<Record<string, unknown>>({
    cwd: config.dir,
    configName: 'config',
    configFileMode: 0o600,
    accessPropertiesByDotNotation: false,
  });
}
