/** The file or the journal that contains the log of a daemon or an agent. */
import { constants, fstatSync, lstatSync, openSync, readlinkSync } from 'node:fs';
import { resolve } from 'node:path';
import { readIfThere } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';

/** Names of the log files in the data dir that `--detach` uses. */
export const LOG_FILES = { serve: 'daemon.log', agent: 'agent.log' } as const;

const STDERR = 2;
const { O_APPEND, O_CREAT, O_NOFOLLOW, O_RDWR } = constants;

/** @throws VregError STORE_UNUSABLE; with the code ELOOP if the file is a link, which may lead anywhere */
export function openLogFile(path: string): number {
  try {
    return openSync(path, O_APPEND | O_CREAT | O_NOFOLLOW | O_RDWR, 0o600);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot write the log ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check its owner and mode, or choose another --data-dir',
      cause,
    });
  }
}

/** True if the stderr of this process is this file, as in a process that `--detach` has started. */
export function isStderr(path: string): boolean {
  try {
    const [stderr, file] = [fstatSync(STDERR), lstatSync(path)];
    return stderr.dev === file.dev && stderr.ino === file.ino;
  } catch {
    return false;
  }
}

/**
 * @param kind of this process
 * @param dir its data dir
 * @returns the path of the file to which this process logs, or the command that prints its log; undefined if the log goes to a
 *   terminal or a pipe
 */
export function logPlace(kind: keyof typeof LOG_FILES, dir: string, env: NodeJS.ProcessEnv): string | undefined {
  const file = resolve(dir, LOG_FILES[kind]);
  if (isStderr(file)) return file;
  const stderr = fstatSync(STDERR);
  // systemd sets this variable to the device and inode of the socket of the journal (systemd.exec(5)).
  if (env.JOURNAL_STREAM === `${stderr.dev}:${stderr.ino}`) return journalCommand();
  if (!stderr.isFile()) return undefined;
  try {
    return readlinkSync(`/proc/self/fd/${STDERR}`);
  } catch {
    return undefined;
  }
}

/** The command that prints the log of the unit of this process. */
function journalCommand(): string {
  const cgroup = readIfThere('/proc/self/cgroup') ?? '';
  const unit = /\/([^/\n]+\.service)[^.\n]*$/m.exec(cgroup)?.[1];
  const manager = /\/user@\d+\.service\//.test(cgroup) ? ' --user' : '';
  return unit === undefined ? `journalctl _PID=${process.pid}` : `journalctl${manager} -u ${unit}`;
}
