/**
 * Who runs here: a file beside the daemon's or the agent's state that names the running process, so that
 * `vreg daemon status` and `stop` find it and a second daemon can name the first.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface ProcessInfo {
  kind: 'serve' | 'agent';
  pid: number;
  /** Distinguishes this process from a later one with the same pid; from /proc, absent where there is none. */
  started?: string;
  /** RFC 3339. */
  since: string;
  /** Where it listens (serve) or whom it beats to (agent). */
  urls: string[];
  /** The VM that an agent keeps alive. */
  vm?: string;
}

const FILES = { serve: 'daemon.json', agent: 'agent.json' } as const;

export function writeProcessInfo(dir: string, info: Omit<ProcessInfo, 'pid' | 'started' | 'since'>): void {
  const started = startOf(process.pid);
  const whole: ProcessInfo = {
    ...info,
    pid: process.pid,
    ...(started === undefined ? {} : { started }),
    since: new Date().toISOString(),
  };
  const file = join(dir, FILES[info.kind]);
  writeFileSync(`${file}.new`, `${JSON.stringify(whole)}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

export function removeProcessInfo(dir: string, kind: ProcessInfo['kind']): void {
  rmSync(join(dir, FILES[kind]), { force: true });
}

/** @returns the process of that kind if it still runs, whatever a killed one left behind */
export function readProcessInfo(dir: string, kind: ProcessInfo['kind']): ProcessInfo | undefined {
  let info: ProcessInfo | null;
  try {
    info = JSON.parse(readFileSync(join(dir, FILES[kind]), 'utf8')) as ProcessInfo | null;
  } catch {
    return undefined;
  }
  // Zero and below name whole groups of processes; a file that says so is not ours.
  if (!Number.isSafeInteger(info?.pid) || info!.pid <= 0) return undefined;
  return isRunning(info!) ? info! : undefined;
}

export function isRunning({ pid, started }: Pick<ProcessInfo, 'pid' | 'started'>): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  return started === undefined || started === startOf(pid);
}

/** Start time of a process in clock ticks since boot (proc(5), field 22 of stat); undefined for a zombie or without /proc. */
function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
