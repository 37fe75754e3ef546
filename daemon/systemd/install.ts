/** Installs and removes units in two stages: creates a plan, which can be shown, and executes it. */
import { spawnSync } from 'node:child_process';
import { realpathSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createFolder, readIfThere, writeAtomically } from '../../src/files.ts';
import { programCommand } from '../../src/program.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { ENABLED_UNIT, STARTED_UNIT, type UnitFile, type UnitKind } from './units.ts';

export interface InstallStep {
  /** `keep`: the file is already there with the same text. */
  action: 'write' | 'replace' | 'keep' | 'remove' | 'run';
  /** The path of the file, or the command line. */
  what: string;
}

export interface InstallOptions {
  kind: UnitKind;
  files: readonly UnitFile[];
  /** Folder for unit files. */
  dir: string;
  /** Flags for `systemctl`: `--user`, or `--root=DIR`. */
  flags: readonly string[];
  /** True if a service manager is running that must reload its units. */
  managerRuns: boolean;
  /** Starts the unit, or restarts it if its file was replaced. */
  now: boolean;
}

/** Plans an installation without changing anything. @returns the steps in order */
export function planInstall({ kind, files, dir, flags, managerRuns, now }: InstallOptions): InstallStep[] {
  const steps = files.map(({ name, text }): InstallStep => {
    const what = join(dir, name);
    const current = readIfThere(what);
    return { action: current === undefined ? 'write' : current === text ? 'keep' : 'replace', what };
  });
  const isReplaced = steps.some(({ action }) => action === 'replace');
  const enabled = ENABLED_UNIT[kind];
  const run = (...args: string[]) => steps.push({ action: 'run', what: ['systemctl', ...flags, ...args].join(' ') });
  if (managerRuns) run('daemon-reload');
  if (enabled) run('enable', enabled);
  if (now) run(isReplaced ? 'restart' : 'start', STARTED_UNIT[kind]);
  return steps;
}

/** Plans the removal of a unit; its state folder remains. @returns the steps, none if there is no such unit */
export function planUninstall({ kind, files, dir, flags, managerRuns }: Omit<InstallOptions, 'now'>): InstallStep[] {
  const installed = files.map(({ name }) => join(dir, name)).filter((path) => readIfThere(path) !== undefined);
  if (installed.length === 0) return [];
  const steps: InstallStep[] = [];
  const run = (...args: string[]) => steps.push({ action: 'run', what: ['systemctl', ...flags, ...args].join(' ') });
  const enabled = ENABLED_UNIT[kind];
  if (managerRuns) run('stop', enabled ?? STARTED_UNIT[kind]);
  if (enabled) run('disable', enabled);
  for (const what of installed) steps.push({ action: 'remove', what });
  if (managerRuns) run('daemon-reload');
  return steps;
}

/** @throws VregError STORE_UNUSABLE if a file cannot be written, UNSUPPORTED if systemctl fails */
export function executePlan(steps: readonly InstallStep[], dir: string, files: readonly UnitFile[]): void {
  const named = (what: string) => files.filter(({ name }) => join(dir, name) === what);
  for (const { action, what } of steps) {
    if (action === 'write' || action === 'replace') writeUnits(dir, named(what));
    if (action === 'remove') rmSync(what, { force: true });
    if (action === 'run') systemctl(what.split(' ').slice(1));
  }
}

/** Writes unit files, each atomically. @throws VregError STORE_UNUSABLE */
export function writeUnits(dir: string, files: readonly UnitFile[]): void {
  for (const { name, text } of files) {
    const path = join(dir, name);
    try {
      createFolder(dir);
      writeAtomically(path, text, { mode: 0o644 });
    } catch (cause) {
      throw new VregError('STORE_UNUSABLE', `cannot write ${path} (${(cause as NodeJS.ErrnoException).code})`, {
        hint: 'check the owner and mode of the folder',
        cause,
      });
    }
  }
}

function systemctl(args: readonly string[]): void {
  const { status, stderr, error } = spawnSync('systemctl', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (status === 0) return;
  const why = error ? ((error as NodeJS.ErrnoException).code ?? error.message) : stderr.trim() || `exit ${status}`;
  throw new VregError('UNSUPPORTED', `systemctl ${args.join(' ')} failed: ${why.replace(/\s+/g, ' ')}`, {
    hint: 'is systemd running? it is safe to run this command again',
  });
}

/** @returns the absolute paths with which a unit starts the running program, with resolved links */
export function unitProgram(): string[] {
  return programCommand().map((path) => realpathSync(path));
}

/** Folders that `ProtectHome` and `PrivateTmp` hide from system units (systemd.exec(5)). */
const HIDDEN_FOLDERS = ['/home', '/root', '/run/user', '/tmp', '/var/tmp'];
/** Mode bit that allows other users to read a file. */
const READABLE_BY_OTHERS = 0o004;
/** Mode bit that allows other users to enter a folder. */
const SEARCHABLE_BY_OTHERS = 0o001;

/** @returns the reason why a system unit, which runs as a separate user, could not read the file; undefined if it can */
export function whyUnreadable(path: string): string | undefined {
  const hidden = HIDDEN_FOLDERS.find((dir) => path.startsWith(`${dir}/`));
  if (hidden !== undefined) return `${path} is in ${hidden}, which is hidden from system units`;
  if ((statSync(path).mode & READABLE_BY_OTHERS) === 0) return `${path} is not readable by other users`;
  for (let dir = dirname(path); dir !== '/'; dir = dirname(dir)) {
    if ((statSync(dir).mode & SEARCHABLE_BY_OTHERS) === 0)
      return `${path} is in ${dir}, which other users cannot enter`;
  }
  return undefined;
}
