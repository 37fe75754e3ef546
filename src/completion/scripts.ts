/** The completion scripts, which the package contains as files. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

declare const __DIST__: string | undefined;

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** File names under which the shells find the scripts in their completion folders. */
const FILES: Readonly<Record<Shell, string>> = { bash: 'vreg.bash', zsh: '_vreg', fish: 'vreg.fish' };
const FOLDER =
  typeof __DIST__ === 'string' ? join(__DIST__, '../completions') : join(import.meta.dirname, '../../completions');

export function completionScript(shell: Shell): string {
  return readFileSync(join(FOLDER, FILES[shell]), 'utf8');
}
