/** The user's editor on a file. */
import { spawn } from 'node:child_process';
import type { Context } from '../command.ts';
import { VregError } from '../protocol/errors.ts';

/** Opens the file in $VISUAL, $EDITOR or vi, and waits. @throws VregError USAGE when the editor fails */
export async function openEditor(context: Context, path: string): Promise<void> {
  const { env } = context;
  const editor = env.VISUAL || env.EDITOR || 'vi';
  // By a shell, since $EDITOR may hold arguments; the path is an argument of its own and is not read as shell.
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', path], { stdio: 'inherit', env });
  // While the editor has the terminal, a Ctrl-C is its own business.
  const takeBack = context.handOver((signal) => {
    if (signal !== 'SIGINT') child.kill(signal);
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.once('exit', (...end) => resolve(end));
  });
  takeBack();
  if (code !== 0)
    throw new VregError('USAGE', `the editor "${editor}" exited with ${signal ?? code}`, {
      hint: 'try again, or set VISUAL or EDITOR to another editor',
    });
}
