/** The version from package.json. The build inlines it; unbundled sources read it from the file. */
import { readFileSync } from 'node:fs';

declare const __VERSION__: string | undefined;

export const VERSION: string =
  typeof __VERSION__ === 'string'
    ? __VERSION__
    : (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }).version;
