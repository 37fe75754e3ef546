/** Where this program is, and whether a hardened unit could start it from there. */
import { realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

export interface Program {
  /** Absolute paths, without links in them. */
  node: string;
  bin: string;
}

export function thisProgram(): Program {
  return { node: realpathSync(process.execPath), bin: realpathSync(process.argv[1]!) };
}

/** Closed to the units by `ProtectHome` and `PrivateTmp` (systemd.exec(5)). */
const CLOSED = ['/home', '/root', '/run/user', '/tmp', '/var/tmp'];
/** Mode bits by which others may read a file, and pass a folder. */
const READ = 0o004;
const PASS = 0o001;

/** @returns why a unit with a user of its own could not read the file; undefined when it can */
export function whyUnreadable(path: string): string | undefined {
  const closed = CLOSED.find((dir) => path.startsWith(`${dir}/`));
  if (closed !== undefined) return `${path} is in ${closed}, which is hidden from the unit`;
  if ((statSync(path).mode & READ) === 0) return `${path} cannot be read by others`;
  for (let dir = dirname(path); dir !== '/'; dir = dirname(dir))
    if ((statSync(dir).mode & PASS) === 0) return `${dir}, where ${path} is, cannot be entered by others`;
  return undefined;
}
