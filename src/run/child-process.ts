/** Programs that a command runs for the user: `exec -- CMD`, `watch -- CMD`, `render …:CMD`, and the user's editor. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Context } from '../command.ts';
import type { Interrupted } from '../exit.ts';
import { VregError } from '../protocol/errors.ts';

export interface ChildOptions {
  env: NodeJS.ProcessEnv;
  /** Text for the child's stdin. If absent, the child inherits this program's stdin. */
  input?: string;
  /** The child acts in place of this program: it receives the signals, and this program ends when the child does. */
  inPlace?: boolean;
}

/**
 * Runs a program and waits until it exits. Forwards signals that end this program to the child, except Ctrl-C, which the
 * terminal sends to both.
 * @returns the exit code: 128+n if signal n ended the child, 127 if the program does not exist, 126 if it cannot be run
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
  const forward = (signal: NodeJS.Signals) => {
    if (signal !== 'SIGINT' || !context.io.stdinTty) child.kill(signal);
  };
  const forwardAbort = () => forward((context.signal.reason as Interrupted).signal);
  context.signal.addEventListener('abort', forwardAbort, { once: true });
  const stopForwarding = inPlace ? context.forwardSignals(forward) : undefined;
  // A command may close its stdin without reading it.
  child.stdin?.on('error', () => {}).end(input);
  return new Promise((resolve) => {
    const end = (code: number) => {
      stopForwarding?.();
      context.signal.removeEventListener('abort', forwardAbort);
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
 * @throws VregError USAGE if more than one word precedes `--`, because the user probably omitted it
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

/**
 * Opens the file in $VISUAL, $EDITOR or vi, and waits until the editor exits.
 * @throws VregError USAGE if the editor fails
 */
export async function openEditor(context: Context, path: string): Promise<void> {
  const { env } = context;
  const editor = env.VISUAL || env.EDITOR || 'vi';
  // $EDITOR may contain arguments, so a shell runs it. The path is passed as an argument and is not parsed by the shell.
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', path], { stdio: 'inherit', env });
  // The terminal also sends Ctrl-C to the editor, which handles it.
  const stopForwarding = context.forwardSignals((signal) => {
    if (signal !== 'SIGINT') child.kill(signal);
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.once('exit', (...end) => resolve(end));
  });
  stopForwarding();
  if (code !== 0)
    throw new VregError('USAGE', `the editor "${editor}" exited with ${signal ?? code}`, {
      hint: 'try again, or set VISUAL or EDITOR to another editor',
    });
}
