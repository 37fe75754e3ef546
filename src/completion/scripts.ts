/** The completion scripts, which the package contains as files. */
import { readProgramFile } from '../program.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** File names under which the shells find the scripts in their completion folders. */
const FILES: Readonly<Record<Shell, string>> = { bash: 'vreg.bash', zsh: '_vreg', fish: 'vreg.fish' };

export function completionScript(shell: Shell): string {
  return readProgramFile(`completions/${FILES[shell]}`);
}
