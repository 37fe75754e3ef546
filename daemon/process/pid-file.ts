/**
 * Who runs here: a file beside the daemon's or the agent's state that names the running process, so that
 * `vreg daemon status` and `stop` find it and a second one can name the first.
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
  /** Distinguishes this process from a later one with the same pid; from /proc, absent where there is none. */
  started?: string;
  /** The folder that it runs with, as the file system knows it: a copy of the folder is another one. */
  home?: string;
  /** RFC 3339. */
  since: string;
  /** Where it listens (serve) or whom it beats to (agent). */
  urls: string[];
  /** The VM that an agent keeps alive. */
  vm?: string;
}

/** Milliseconds that a process is given to drain. */
const STOP_TIMEOUT = 35_000;
/** Milliseconds between two looks whether it has gone. */
const POLL_INTERVAL = 50;

const FILES = { serve: /^daemon\.json$/, agent: /^agent-\w+\.json$/ } as const;

/** @throws VregError STORE_UNUSABLE */
export function writeProcessInfo(dir: string, info: Omit<ProcessInfo, 'pid' | 'started' | 'home' | 'since'>): void {
  const started = startTimeOf(process.pid);
  const file = join(dir, fileName(info));
  try {
    const whole: ProcessInfo = {
      ...info,
      pid: process.pid,
      ...(started === undefined ? {} : { started }),
      home: folderId(dir),
      since: new Date().toISOString(),
    };
    writeAtomically(file, `${JSON.stringify(whole)}\n`, { mode: 0o600 });
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
}

/**
 * Removes what {@link writeProcessInfo} wrote, and not what another process wrote in a folder that was made anew. Never
 * fails: on a disk that has become read-only the file stays, and says no more than that of a killed process.
 * @param vm of an agent: the VM that it kept alive
 */
export function removeProcessInfo(dir: string, kind: ProcessInfo['kind'], vm?: string): void {
  const file = join(dir, fileName({ kind, vm }));
  const info = readInfo(file);
  if (info?.pid !== process.pid || !isRunning(info)) return;
  try {
    rmSync(file, { force: true });
  } catch {
    // Who reads it looks whether the process still runs.
  }
}

/** @returns the process of that kind (the first, of agents) if it still runs, whatever a killed one left behind */
export function readProcessInfo(dir: string, kind: ProcessInfo['kind']): ProcessInfo | undefined {
  return readProcesses(dir, kind)[0];
}

/** @returns all processes of that kind that still run with this folder: one registry, and one agent for each of its VMs */
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

/** Device and inode: they stay when the folder is moved, and differ when it is copied. */
function folderId(dir: string): string {
  const { dev, ino } = statSync(dir);
  return `${dev}:${ino}`;
}

export function isRunning({ pid, started }: Pick<ProcessInfo, 'pid' | 'started'>): boolean {
  const start = startTimeOf(pid);
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Another user's, whose start may be hidden (proc(5), hidepid).
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
    if (start === undefined) return true;
  }
  return started === undefined || started === start;
}

/**
 * Asks processes to end and resolves when they have.
 * @throws VregError TIMEOUT when one takes longer than {@link STOP_TIMEOUT}, FORBIDDEN when one is another user's
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
      throw new VregError('FORBIDDEN', `pid ${pid} is another user's`, { hint: 'stop it as that user', cause });
    }
  }
  for (let waited = 0; processes.some(isRunning); waited += POLL_INTERVAL) {
    if (waited > STOP_TIMEOUT) {
      const left = processes.filter(isRunning).map(({ kind, pid }) => `${kind} (pid ${pid})`);
      throw new VregError('TIMEOUT', `still running after ${STOP_TIMEOUT / 1000} s: ${left.join(', ')}`, {
        hint: 'look at its log; kill -9 loses nothing',
      });
    }
    await sleep(POLL_INTERVAL);
  }
}

/** An id may hold what a file's name may not, so an agent's file is named by the id's digest. */
function fileName({ kind, vm = '' }: { kind: ProcessInfo['kind']; vm?: string | undefined }): string {
  if (kind === 'serve') return 'daemon.json';
  return `agent-${createHash('sha256').update(vm).digest('hex').slice(0, 16)}.json`;
}

function readInfo(file: string): ProcessInfo | undefined {
  try {
    const info = JSON.parse(readFileSync(file, 'utf8')) as ProcessInfo | null;
    // Zero and below name whole groups of processes; a file that says so is not ours.
    return Number.isSafeInteger(info?.pid) && info!.pid > 0 ? info! : undefined;
  } catch {
    return undefined;
  }
}

/** Start time of a process in clock ticks since boot (proc(5), field 22 of stat); undefined for a zombie or without /proc. */
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
