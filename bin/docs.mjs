/** `npm run docs`: rewrites the generated parts of the READMEs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { loadAllCommands } from '../src/commands.ts';
import { fillReadme, READMES } from '../src/help/docs.ts';

const commands = await loadAllCommands();
for (const name of READMES) {
  const file = new URL(`../${name}`, import.meta.url);
  writeFileSync(file, fillReadme(readFileSync(file, 'utf8'), commands));
}
