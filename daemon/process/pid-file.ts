/**
 * Pid files: a file beside the state of the daemon or the agent names the running process. `vreg daemon status` and
 * `stop` find the process with it, and a second daemon can name the first in its error.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { unusableStateDir } from './state-dir.ts';

export interface ProcessInfo {
  kind: 'serve' | 'agent';
  pid: number;
  /**
   * Start time from /proc, which distinguishes this process from a later one with the same pid; absent without /proc.
   */
  started?: string;
  /** Device and inode of its folder, so that a copy of the folder does not name this process. */
  home?: string;
  /** RFC 3339. */
  since: string;
  /** Addresses on which the registry listens, or the registry of the agent. */
  urls: string[];
  /** The agent's VM. */
  vm?: string;
}

/**
 * Milliseconds to wait for a process to exit: 5 s more than the daemon's drain, which its request timeout (30 s)
 * bounds.
 */
const STOP_TIMEOUT = 35_000;
/** Milliseconds between two checks whether a process has exited. */
const POLL_INTERVAL = 50;

const FILES = { serve: /^daemon\.json$/, agent: /^agent-\w+\.json$/ } as const;

/** @throws VregError STORE_UNUSABLE */
export function writeProcessInfo(dir: string, info: Omit<ProcessInfo, 'pid' | 'started' | 'home' | 'since'>): void {
  const started = startTimeOf(process.pid);
  const file = join(dir, fileName(info));
  try {
    const complete: ProcessInfo = {
      ...info,
      pid: process.pid,
      ...(started === undefined ? {} : { started }),
      home: folderId(dir),
      since: new Date().toISOString(),
    };
    writeAtomically(file, `${JSON.stringify(complete)}\n`, { mode: 0o600 });
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
}

/**
 * Removes the file that {@link writeProcessInfo} wrote, but not the file of another process in a recreated folder.
 * Never fails: on a read-only disk the file stays, and readers ignore it as they ignore the file of a killed process.
 * @param vm the agent's VM
 */
export function removeProcessInfo(dir: string, kind: ProcessInfo['kind'], vm?: string): void {
  const file = join(dir, fileName({ kind, vm }));
  const info = readInfo(file);
  if (info?.pid !== process.pid || !isRunning(info)) return;
  try {
    rmSync(file, { force: true });
  } catch {
    // Readers check whether the process still runs.
  }
}

/**
 * @returns the running process of that kind (the first one if there are several agents), ignoring files of killed
 *   processes
 */
export function readProcessInfo(dir: string, kind: ProcessInfo['kind']): ProcessInfo | undefined {
  return readProcesses(dir, kind)[0];
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

/** Device and inode, which stay the same when a folder is moved and differ when it is copied. */
function folderId(dir: string): string {
  const { dev, ino } = statSync(dir);
  return `${dev}:${ino}`;
}

export function isRunning({ pid, started }: Pick<ProcessInfo, 'pid' | 'started'>): boolean {
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

/**
 * Sends SIGTERM to processes and resolves when they have exited.
 * @throws VregError TIMEOUT if one still runs after {@link STOP_TIMEOUT}, FORBIDDEN if one belongs to another user
 */
export async function stopProcesses(
  processes: readonly ProcessInfo[],
  sleep: (ms: number) => Promise<void>,
): Promise<void> {
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
        hint: 'see its log; kill -9 loses no acknowledged change',
      });
    }
    await sleep(POLL_INTERVAL);
  }
}

/**
 * An id may contain characters that are not allowed in a file name, so the name of an agent's file has a digest of the
 * id.
 */
function fileName({ kind, vm = '' }: { kind: ProcessInfo['kind']; vm?: string | undefined }): string {
  if (kind === 'serve') return 'daemon.json';
  return `agent-${createHash('sha256').update(vm).digest('hex').slice(0, 16)}.json`;
}

function readInfo(file: string): ProcessInfo | undefined {
  try {
    const info = JSON.parse(readFileSync(file, 'utf8')) as ProcessInfo | null;
    // kill(2) treats pids of 0 and below as process groups; vreg never writes such a file.
    return Number.isSafeInteger(info?.pid) && info!.pid > 0 ? info! : undefined;
  } catch {
    return undefined;
  }
}

/**
 * @returns the start time in clock ticks since boot (proc(5), field 22 of stat); undefined for a zombie or without
 *   /proc
 */
function startTimeOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
