/** The version of this program, from package.json: put in by the build, read from the file when the sources run. */
import { readFileSync } from 'node:fs';

declare const __VERSION__: string | undefined;

export const VERSION: string =
  typeof __VERSION__ === 'string'
    ? __VERSION__
    : (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }).version;
