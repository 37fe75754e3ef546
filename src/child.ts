/** Programs that a command runs for the user: `exec`, `watch -- CMD`, `render ...:CMD`. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Context } from './command.ts';

/** Ends the program with the child's exit code. */
export class ChildEnded extends Error {
  readonly exit: number;

  constructor(exit: number) {
    super(`the command ended with ${exit}`);
    this.exit = exit;
  }
}

export interface ChildOptions {
  env: NodeJS.ProcessEnv;
  /** Written to its stdin; without it the child has this program's. */
  input?: string;
}

/**
 * Runs a program to its end. A signal that asks this program to end is passed on to it.
 * @returns its exit code: 128+n when signal n ended it, 127 when there is none of that name, 126 when it cannot be run
 */
export function runChild(
  context: Context,
  [command, ...args]: readonly string[],
  { env, input }: ChildOptions,
): Promise<number> {
  const child = spawn(command!, args, {
    env: { ...context.env, ...env },
    stdio: [input === undefined ? 'inherit' : 'pipe', 'inherit', 'inherit'],
  });
  const passOn = () => child.kill('SIGTERM');
  context.signal.addEventListener('abort', passOn, { once: true });
  // A command that does not read its stdin is in its right.
  child.stdin?.on('error', () => {}).end(input);
  return new Promise((resolve) => {
    const end = (code: number) => {
      context.signal.removeEventListener('abort', passOn);
      resolve(code);
    };
    child.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      context.note(`cannot run ${command}: ${code ?? message}`);
      end(code === 'ENOENT' ? 127 : 126);
    });
    child.once('exit', (code, signal) => end(signal ? 128 + constants.signals[signal] : code!));
  });
}

/** The words behind `--`, and the arguments before it. */
export function splitCommand({ argv }: Context, args: readonly string[]): { before: string[]; command: string[] } {
  const at = argv.indexOf('--');
  const command = at < 0 ? [] : argv.slice(at + 1);
  return { before: args.slice(0, args.length - command.length), command };
}
