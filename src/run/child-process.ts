/** Programs that a command runs for the user: `exec -- CMD`, `watch -- CMD`, `render …:CMD`, and the user's editor. */
import { spawn } from 'node:child_process';
import { accessSync, constants as fsConstants, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { Context } from '../command.ts';
import { Interrupted } from '../exit.ts';
import { VregError } from '../protocol/errors.ts';
import { isStartedByNohup } from './signals.ts';

export interface ChildOptions {
  env: NodeJS.ProcessEnv;
  /** Text for the child's stdin. If absent, the child inherits this program's stdin. */
  input?: string;
  /**
   * The child acts in place of this program: it uses the terminal and receives the signals, and this program ends when the child
   * does. Otherwise a signal ends this program, the child, and the child's own children.
   */
  inPlace?: boolean;
  /** The child writes to this program's stderr instead of stdout. */
  stdoutToStderr?: boolean;
}

export interface ChildResult {
  /** The exit code: 128+n if signal n ended the child, 127 if the program does not exist, 126 if it cannot be run. */
  code: number;
  /** The last signal that this program received while the child ran, if by convention it ends a program. */
  signal?: NodeJS.Signals | undefined;
}

/** Milliseconds after which a child that ignores the signal of this program is killed, as in `docker stop`. */
const KILL_DELAY = 10_000;

/**
 * Runs a program and waits until it exits. A child without a terminal has a process group of its own, which includes its own
 * children. With a terminal, a child that acts in place of this program stays in its process group, so that it can read from
 * the terminal and the shell can stop and continue both.
 */
export function runChild(
  context: Context,
  words: readonly string[],
  { env, input, inPlace = false, stdoutToStderr = false }: ChildOptions,
): Promise<ChildResult> {
  context.signal.throwIfAborted();
  const command = inPlace && isStartedByNohup(context.env) ? ['nohup', ...words] : words;
  const childEnv = { ...context.env, ...env };
  const isGated = canBeGated(command[0]!, childEnv);
  const [program, ...args] = isGated ? ['/bin/sh', '-c', GATE, 'vreg', ...command] : command;
  const hasOwnGroup = !inPlace || !hasTerminal(context);
  let ending: NodeJS.Signals | undefined;
  let killing: NodeJS.Timeout | undefined;
  const endGroup = (signal: NodeJS.Signals) => {
    ending = signal;
    send(target, signal);
    killing = setTimeout(() => send(target, 'SIGKILL'), KILL_DELAY).unref();
  };
  const forward = (signal: NodeJS.Signals) => {
    if (isEnding(signal)) ending = signal;
    if (signal === 'SIGTSTP') return suspend(pid, hasOwnGroup);
    if (!hasOwnGroup && isFromKeyboard(signal)) return;
    send(pid, signal);
  };
  const onAbort = () => {
    const { signal } = context.signal.reason as Interrupted;
    if (inPlace) forward(signal);
    else endGroup(signal);
  };
  context.signal.addEventListener('abort', onAbort, { once: true });
  // Before the child starts: a signal that is not handled yet would end or stop this process only.
  const stopForwarding = inPlace ? context.forwardSignals(forward) : undefined;
  const child = spawn(program!, args, {
    env: childEnv,
    stdio: [
      input === undefined ? 'inherit' : 'pipe',
      stdoutToStderr ? 2 : 'inherit',
      'inherit',
      isGated ? 'pipe' : 'ignore',
    ],
    detached: hasOwnGroup,
  });
  const { pid } = child;
  const target = pid === undefined ? undefined : hasOwnGroup ? -pid : pid;
  const stopGuarding = guard(target);
  const gate = child.stdio[3] as Socket | null;
  // A signal may already have ended the child.
  gate?.on('error', () => {}).end('guarded\n');
  // A command may close its stdin without reading it.
  child.stdin?.on('error', () => {}).end(input);
  return new Promise((resolve) => {
    const end = (code: number) => {
      // The child's own children may ignore the signal, or not have received it.
      if (ending && hasOwnGroup) send(target, 'SIGTERM');
      clearTimeout(killing);
      stopForwarding?.();
      context.signal.removeEventListener('abort', onAbort);
      // After a signal, the guard kills the processes of the group that ignore SIGTERM.
      if (!ending || !hasOwnGroup) stopGuarding();
      resolve({ code, signal: ending });
    };
    child.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      context.note(`cannot run ${words[0]}: ${code ?? message}`);
      end(code === 'ENOENT' ? 127 : 126);
    });
    child.once('exit', (code, signal) => end(signal ? 128 + constants.signals[signal] : code!));
  });
}

/** @param target a pid, or a negative process group id */
function send(target: number | undefined, signal: NodeJS.Signals): void {
  try {
    if (target !== undefined) process.kill(target, signal);
  } catch {
    // It has exited, or changed its user.
  }
}

/** True for signals that by default, and by convention, end a program. */
function isEnding(signal: NodeJS.Signals): boolean {
  return ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'].includes(signal);
}

/** Stops the child and this process. The kernel ignores SIGTSTP for a process group that no shell controls (tty_ioctl(4)). */
function suspend(pid: number | undefined, hasOwnGroup: boolean): void {
  send(pid, hasOwnGroup ? 'SIGSTOP' : 'SIGTSTP');
  process.kill(process.pid, 'SIGSTOP');
}

/**
 * The shell script that ends a child if this process dies without doing so, for example by SIGKILL. This process writes a line
 * when the child has exited; the end of the input means that this process has died.
 */
const GUARD = 'read -r line || { kill -s TERM -- "$1"; sleep 2; kill -s KILL -- "$1"; }';

/**
 * The shell script that waits until the child has a guard and then becomes the child, with the same pid. This process writes a
 * line to descriptor 3 when the guard exists. If this process dies before, descriptor 3 ends and the script exits.
 */
const GATE = 'read -r vreg_gate <&3 && exec "$@" 3<&-';

/**
 * True if the shell of {@link GATE} can start the program as this process would. A shell may drop variables whose names are not
 * identifiers, for example exported functions of bash; then the child starts without waiting for its guard. A program that
 * cannot be run is left to spawn(), which reports the error.
 */
function canBeGated(program: string, env: NodeJS.ProcessEnv): boolean {
  if (!Object.keys(env).every((name) => /^[A-Za-z_]\w*$/.test(name))) return false;
  const folders = program.includes('/') ? [''] : (env.PATH ?? '').split(':');
  return folders.some((folder) => isExecutable(join(folder, program)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, fsConstants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Starts a process that ends the child if this process dies.
 * @param target pid of the child, or its negative process group id
 * @returns a function that ends the guard without ending the child
 */
function guard(target: number | undefined): () => void {
  if (target === undefined) return () => {};
  // In a session of its own, it receives no signal from the terminal. It keeps no folder busy.
  const script = spawn('/bin/sh', ['-c', GUARD, 'sh', String(target)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
    env: { PATH: process.env.PATH },
  });
  // The child can also run without a guard.
  script.on('error', () => {}).unref();
  const stdin = script.stdin as Socket;
  stdin.on('error', () => {}).unref();
  return () => stdin.end('exited\n');
}

/** Fields of /proc/self/stat after the name of the program (proc_pid_stat(5)); undefined on other systems than Linux. */
function processStat(): { group: number; terminal: number; foregroundGroup: number } | undefined {
  try {
    const fields = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
      .map(Number);
    return { group: fields[2]!, terminal: fields[4]!, foregroundGroup: fields[5]! };
  } catch {
    return undefined;
  }
}

/** True if this process has a controlling terminal, in the foreground or in the background. */
function hasTerminal({ io }: Context): boolean {
  const stat = processStat();
  return stat ? stat.terminal !== 0 : io.tty || io.errTty || io.stdinTty;
}

/**
 * True if the terminal has probably sent the signal, because the user pressed Ctrl-C or Ctrl-\. Then all processes of the
 * foreground group have received it. A signal that another process sends to this process alone cannot be told apart.
 */
function isFromKeyboard(signal: NodeJS.Signals): boolean {
  if (signal !== 'SIGINT' && signal !== 'SIGQUIT') return false;
  const stat = processStat();
  return stat ? stat.group === stat.foregroundGroup : true;
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
 * @throws VregError USAGE if the editor fails; Interrupted if a signal has ended it
 */
export async function openEditor(context: Context, path: string): Promise<void> {
  const { env, io } = context;
  const editor = env.VISUAL || env.EDITOR || 'vi';
  // $EDITOR may contain arguments, so a shell runs it. The path is passed as an argument and is not parsed by the shell.
  const { code, signal } = await runChild(context, ['/bin/sh', '-c', `${editor} "$1"`, 'sh', path], {
    env: {},
    inPlace: true,
    // The editor draws on the terminal; stdout may be a pipe, which carries the answer.
    stdoutToStderr: !io.tty,
  });
  // An editor that handles Ctrl-C continues. Its exit may be reported before this program receives the same signal.
  if (code === 128 + constants.signals.SIGINT) throw new Interrupted('SIGINT');
  if (signal === 'SIGTERM' || signal === 'SIGHUP') throw new Interrupted(signal);
  if (code !== 0)
    throw new VregError('USAGE', `the editor "${editor}" exited with ${code}`, {
      hint: 'try again, or set VISUAL or EDITOR to another editor',
    });
}
