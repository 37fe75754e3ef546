/** Other processes of this machine: which process a pid means, whether it still runs, its user, and the program that called this one. */
import { execFileSync } from 'node:child_process';
import { existsSync, readlinkSync } from 'node:fs';
import { readIfThere } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';

/** Identifies a process also after its pid has been assigned to another one. */
export interface ProcessMark {
  pid: number;
  /** Start time from /proc or ps, which distinguishes this process from a later one with the same pid. */
  started?: string;
  /** The kernel's id for the current boot, because start times from /proc count from the boot; absent without /proc. */
  boot?: string;
}

/** Marks the process that has this pid now. */
export function markOf(pid: number): ProcessMark {
  const started = startTimeOf(pid);
  const boot = bootId();
  return { pid, ...(started === undefined ? {} : { started }), ...(boot === undefined ? {} : { boot }) };
}

/** True while the marked process runs; false for a later one with the same pid. */
export function isRunning({ pid, started, boot }: ProcessMark): boolean {
  if (boot !== undefined && boot !== bootId()) return false;
  const start = startTimeOf(pid);
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: the process belongs to another user, and its start time may be hidden (proc(5), hidepid).
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
    if (start === undefined) return true;
  }
  return started === undefined || started === start;
}

/** Milliseconds between two checks of a process. Node has no pidfd, which would report the exit. */
const POLL_INTERVAL = 1000;

/**
 * Resolves when the process has exited, also if another one gets its pid.
 * @param sleep waits for `ms` milliseconds; if it rejects, so does this function
 * @throws VregError NO_LIVE if there is no such process
 */
export async function untilExit(pid: number, sleep: (ms: number) => Promise<void>): Promise<void> {
  const mark = markOf(pid);
  if (!isRunning(mark))
    throw new VregError('NO_LIVE', `no process has the pid ${pid}`, {
      field: 'while-pid',
      hint: 'use the pid of a running process, e.g. $PPID',
    });
  while (isRunning(mark)) await sleep(POLL_INTERVAL);
}

/** @returns the user id of a process; undefined if it has exited */
export function userOf(pid: number): number | undefined {
  const status = readIfThere(`/proc/${pid}/status`);
  const text = status === undefined ? ps(pid, 'uid') : /^Uid:\t(\d+)/m.exec(status)?.[1];
  return text === undefined ? undefined : Number(text);
}

/** A field of a process on systems without /proc; undefined if there is no such process. */
function ps(pid: number, field: 'uid' | 'lstart' | 'ppid' | 'args'): string | undefined {
  try {
    return execFileSync('ps', ['-o', `${field}=`, '-p', String(pid)], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** @returns the namespace in which pids of this process have a meaning, for example `pid:[4026531836]`; undefined without /proc */
export function pidNamespace(): string | undefined {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return undefined;
  }
}

function bootId(): string | undefined {
  return readIfThere('/proc/sys/kernel/random/boot_id')?.trim();
}

/**
 * @returns the start time in clock ticks since boot (proc(5), field 22 of stat), or as ps prints it on systems without
 *   /proc; undefined for a zombie
 */
function startTimeOf(pid: number): string | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`);
  if (stat === undefined) return existsSync('/proc/self') ? undefined : ps(pid, 'lstart');
  const fields = stat.replace(/^.*\) /s, '').split(' ');
  return fields[0] === 'Z' ? undefined : fields[19];
}

/** Shells that run one command for their caller and exit, such as the one in which a coding agent runs its hooks. */
const SHELLS = /^(a|ba|da|fi|k|mk|z)?sh$|^busybox$/;
/** Maximum number of processes between this one and the program that called it. */
const MAX_DEPTH = 16;

/**
 * The program that runs this one: the parent process or, if that is a shell with `-c`, the program that started the shell.
 * @param pid of the process whose caller is wanted
 * @returns undefined if it has exited already, so that init adopted its child
 */
export function callerOf(pid: number): number | undefined {
  let at = pid;
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const parent = parentOf(at);
    if (parent === undefined || parent <= 1) return undefined;
    if (!runsOneCommand(commandLineOf(parent))) return parent;
    at = parent;
  }
  return undefined;
}

function parentOf(pid: number): number | undefined {
  const status = readIfThere(`/proc/${pid}/status`);
  const text = status === undefined ? ps(pid, 'ppid') : /^PPid:\t(\d+)/m.exec(status)?.[1];
  return text === undefined ? undefined : Number(text);
}

function commandLineOf(pid: number): readonly string[] {
  const line = readIfThere(`/proc/${pid}/cmdline`);
  return line === undefined ? (ps(pid, 'args') ?? '').split(' ') : line.split('\0');
}

/** @param words the program and its arguments */
function runsOneCommand([program = '', ...args]: readonly string[]): boolean {
  // A login shell has a leading hyphen.
  if (!SHELLS.test(program.replace(/^.*\//, '').replace(/^-/, ''))) return false;
  const first = args.findIndex((word) => !word.startsWith('-'));
  const options = first < 0 ? args : args.slice(0, first);
  return options.some((word) => /^-[a-zA-Z]*c[a-zA-Z]*$/.test(word));
}
