/**
 * Pid files. A file in the state folder of the daemon or the agent identifies the running process. `vreg daemon status` and
 * `stop` use it to find the process, and a second daemon names the first one in its error message.
 */

import { createHash } from 'node:crypto';
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readRegularFile, writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { logPlace } from './log-file.ts';
import { isRunning, markOf, type ProcessMark, userOf } from './other-process.ts';
import { assertPrivate, unusableStateDir } from './state-dir.ts';

export interface ProcessInfo extends ProcessMark {
  kind: 'serve' | 'agent';
  /** Device and inode of the folder of this file. In a copy of the folder they differ, so the file there is ignored. */
  home?: string;
  /** RFC 3339. */
  since: string;
  /** For a registry, the URLs on which it listens; for an agent, the URL of its registry. */
  urls: string[];
  /** A registry is loading its store; absent when it has loaded it. */
  state?: 'loading';
  /** The agent's VM. */
  vm?: string;
  /** Path of the log file, or the command that prints the log; absent if the log goes to a terminal or a pipe. */
  log?: string;
  /** A problem that the agent has found and that does not stop it. */
  warning?: string;
}

/**
 * Milliseconds to wait for a process to exit: 5 s more than the daemon may take to drain requests, which is at most its request
 * timeout of 30 s.
 */
const STOP_TIMEOUT = 35_000;
/** Milliseconds between two checks for whether a process has exited. */
const POLL_INTERVAL = 50;

/** RFC 3339. The file may be written more than once. */
const STARTED_AT = new Date(performance.timeOrigin).toISOString();

const FILES = { serve: /^daemon\.json$/, agent: /^agent-\w+\.json$/ } as const;

/** @throws VregError STORE_UNUSABLE */
export function writeProcessInfo(
  dir: string,
  info: Omit<ProcessInfo, 'pid' | 'started' | 'boot' | 'home' | 'since' | 'log'>,
): void {
  const log = logPlace(info.kind, dir, process.env);
  const file = join(dir, fileName(info));
  try {
    const complete: ProcessInfo = {
      ...info,
      ...markOf(process.pid),
      home: folderId(dir),
      since: STARTED_AT,
      ...(log === undefined ? {} : { log }),
    };
    writeAtomically(file, `${JSON.stringify(complete)}\n`, { mode: 0o600 });
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
}

/**
 * Removes the file that {@link writeProcessInfo} wrote, but not the file of another process in a recreated folder. Never fails:
 * a file on a read-only disk remains, and readers ignore it like the file of a killed process.
 * @param vm the agent's VM
 */
export function removeProcessInfo(dir: string, kind: ProcessInfo['kind'], vm?: string): void {
  const file = join(dir, fileName({ kind, vm }));
  const info = readInfo(file);
  if (info?.pid !== process.pid || !isRunning(info)) return;
  try {
    rmSync(file, { force: true });
  } catch {
    // Readers check whether the process is still running.
  }
}

/** @returns the running process of that kind, or the first one if there are several agents; ignores files of killed processes */
export function readProcessInfo(dir: string, kind: ProcessInfo['kind']): ProcessInfo | undefined {
  return readProcesses(dir, kind)[0];
}

/** As {@link readProcessInfo}, unless it is this process, which may have started its registry again. */
export function readOtherProcess(dir: string, kind: ProcessInfo['kind']): ProcessInfo | undefined {
  return readProcesses(dir, kind).find(({ pid }) => pid !== process.pid);
}

/** @returns all running processes of that kind that use this folder: one registry, or one agent per VM */
export function readProcesses(dir: string, kind: ProcessInfo['kind']): ProcessInfo[] {
  let names: string[];
  let home: string;
  try {
    names = readdirSync(dir);
    home = folderId(dir);
  } catch {
    return [];
  }
  return names
    .filter((name) => FILES[kind].test(name))
    .sort()
    .map((name) => readInfo(join(dir, name)))
    .filter((info) => info !== undefined && (info.home ?? home) === home && isRunning(info)) as ProcessInfo[];
}

/** Device and inode, which stay the same if the folder is moved, but not if it is copied. */
export function folderId(dir: string): string {
  const { dev, ino } = statSync(dir);
  return `${dev}:${ino}`;
}

/**
 * Sends SIGTERM to the processes that use a folder and resolves when they have exited.
 * @throws VregError TIMEOUT if one still runs after {@link STOP_TIMEOUT}; FORBIDDEN if one belongs to another user, or if
 *   its pid file does not prove that it is a process of vreg; USAGE if another user may write pid files into the folder
 */
export async function stopProcesses(
  dir: string,
  processes: readonly ProcessInfo[],
  sleep: (ms: number) => Promise<void>,
): Promise<void> {
  // Check all processes before any of them receives a signal.
  for (const info of processes) assertProven(dir, info);
  for (const { pid } of processes) {
    try {
      process.kill(pid, 'SIGTERM');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EPERM') continue;
      throw new VregError('FORBIDDEN', `pid ${pid} belongs to another user`, { hint: 'stop it as that user', cause });
    }
  }
  for (let waited = 0; processes.some(isRunning); waited += POLL_INTERVAL) {
    if (waited > STOP_TIMEOUT) {
      const left = processes.filter(isRunning).map(({ kind, pid }) => `${kind} (pid ${pid})`);
      throw new VregError('TIMEOUT', `still running after ${STOP_TIMEOUT / 1000} s: ${left.join(', ')}`, {
        hint: 'check its log; kill -9 loses no acknowledged change',
      });
    }
    await sleep(POLL_INTERVAL);
  }
}

/**
 * Prevents `vreg daemon stop` from signalling another process because of an outdated or forged pid file, which matters most if
 * root runs it. The start time in the file must match the process, and any user who could have written the file could also stop
 * that process.
 */
function assertProven(dir: string, { kind, pid, started, vm }: ProcessInfo): void {
  const file = join(dir, fileName({ kind, vm }));
  const writer = readRegularFile(file)?.uid;
  const user = userOf(pid);
  if (writer !== undefined) assertPrivate(dir, 'data-dir', writer);
  if (started !== undefined && user !== undefined && (writer === user || writer === 0)) return;
  throw new VregError('FORBIDDEN', `${file} does not prove that pid ${pid} is a process of vreg`, {
    hint: `inspect it: ps -fp ${pid}; to stop it anyway: kill ${pid}`,
  });
}

/**
 * The file name. For an agent, it contains a digest of the VM's id, which may contain characters that are not allowed in file
 * names.
 */
function fileName({ kind, vm = '' }: { kind: ProcessInfo['kind']; vm?: string | undefined }): string {
  if (kind === 'serve') return 'daemon.json';
  return `agent-${createHash('sha256').update(vm).digest('hex').slice(0, 16)}.json`;
}

function readInfo(file: string): ProcessInfo | undefined {
  try {
    const info = JSON.parse(readRegularFile(file)?.text ?? '') as ProcessInfo | null;
    // kill(2) treats zero and negative pids as process groups. vreg never writes such a pid.
    return Number.isSafeInteger(info?.pid) && info!.pid > 0 ? info! : undefined;
  } catch {
    return undefined;
  }
}

/** Adds the other daemon to the message of an error. */
export function alreadyRunning(
  { code, message, hint }: VregError,
  { pid, urls, since, state }: ProcessInfo,
): VregError {
  const activity = state === 'loading' ? 'loading its store' : `serving ${urls.join(' and ')}`;
  return new VregError(code, `${message}: the vreg daemon with pid ${pid}, ${activity} since ${since}`, {
    hint: hint!,
  });
}
