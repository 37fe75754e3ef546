/** The user's editor on a file. */
import { spawn } from 'node:child_process';
import type { Context } from './command.ts';
import { VregError } from './protocol/errors.ts';

/** Opens the file in $VISUAL, $EDITOR or vi, and waits. @throws VregError USAGE when the editor fails */
export async function openEditor({ env }: Context, path: string): Promise<void> {
  const editor = env.VISUAL || env.EDITOR || 'vi';
  // By a shell, since $EDITOR may hold arguments; the path is an argument of its own and is not read as shell.
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', path], { stdio: 'inherit', env });
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  if (code !== 0)
    throw new VregError('USAGE', `the editor "${editor}" ended with ${code}`, { hint: 'set EDITOR to another' });
}
