/** Programs that a command runs for the user: `exec`, `watch -- CMD`, `render ...:CMD`. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Context } from '../command.ts';
import type { Interrupted } from '../exit.ts';
import { VregError } from '../protocol/errors.ts';

export interface ChildOptions {
  env: NodeJS.ProcessEnv;
  /** Written to its stdin; without it the child has this program's. */
  input?: string;
  /** It runs in the place of this program: signals do not end this one, and what it makes of them counts. */
  inPlace?: boolean;
}

/**
 * Runs a program to its end. A signal that asks this program to end is passed on to it; a Ctrl-C is not, since the
 * terminal sends it to both.
 * @returns its exit code: 128+n when signal n ended it, 127 when there is none of that name, 126 when it cannot be run
 */
export function runChild(
  context: Context,
  [command, ...args]: readonly string[],
  { env, input, inPlace = false }: ChildOptions,
): Promise<number> {
  context.signal.throwIfAborted();
  const child = spawn(command!, args, {
    env: { ...context.env, ...env },
    stdio: [input === undefined ? 'inherit' : 'pipe', 'inherit', 'inherit'],
  });
  const passOn = (signal: NodeJS.Signals) => {
    if (signal !== 'SIGINT' || !context.io.stdinTty) child.kill(signal);
  };
  const passOnAbort = () => passOn((context.signal.reason as Interrupted).signal);
  context.signal.addEventListener('abort', passOnAbort, { once: true });
  const takeBack = inPlace ? context.handOver(passOn) : undefined;
  // A command that does not read its stdin is in its right.
  child.stdin?.on('error', () => {}).end(input);
  return new Promise((resolve) => {
    const end = (code: number) => {
      takeBack?.();
      context.signal.removeEventListener('abort', passOnAbort);
      resolve(code);
    };
    child.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      context.note(`cannot run ${command}: ${code ?? message}`);
      end(code === 'ENOENT' ? 127 : 126);
    });
    child.once('exit', (code, signal) => end(signal ? 128 + constants.signals[signal] : code!));
  });
}

/**
 * Splits the arguments into the optional role before `--` and the command after it.
 * @param name of the vreg command, for the hint
 * @throws VregError USAGE if more than one word precedes `--`: the user probably forgot it
 */
export function splitCommand(
  { argv }: Context,
  args: readonly string[],
  name: string,
): { role: string | undefined; command: readonly string[] } {
  const at = argv.indexOf('--');
  const command = at < 0 ? [] : argv.slice(at + 1);
  const [role, ...more] = args.slice(0, args.length - command.length);
  if (more.length === 0) return { role, command };
  throw new VregError('USAGE', `unexpected argument "${more[0]}"`, {
    field: 'command',
    hint: `put -- before the command: vreg ${name} ${role} -- ${at < 0 ? more.join(' ') : command.join(' ')}`,
  });
}
