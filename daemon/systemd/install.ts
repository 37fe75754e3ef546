/** Units are put in place and handed to systemd: what there is to do, and the doing. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere, writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { ENABLED_UNIT, STARTED_UNIT, type UnitFile, type UnitKind } from './units.ts';

export interface InstallStep {
  /** `keep` of a file that is there as it should be. */
  action: 'write' | 'replace' | 'keep' | 'remove' | 'run';
  /** The file, or the command line. */
  what: string;
}

export interface InstallOptions {
  kind: UnitKind;
  files: readonly UnitFile[];
  /** Where units of this manager stand. */
  dir: string;
  /** For `systemctl`: `--user`, or `--root=DIR`. */
  flags: readonly string[];
  /** A manager runs, that can be told of new files. */
  managerRuns: boolean;
  /** Starts the unit, too; one that runs in an older form is started anew. */
  now: boolean;
}

/** What {@link install} will do, in its order; nothing is changed yet. */
export function planInstall({ kind, files, dir, flags, managerRuns, now }: InstallOptions): InstallStep[] {
  const steps = files.map(({ name, text }): InstallStep => {
    const what = join(dir, name);
    const there = readIfThere(what);
    return { action: there === undefined ? 'write' : there === text ? 'keep' : 'replace', what };
  });
  const isReplaced = steps.some(({ action }) => action === 'replace');
  const enabled = ENABLED_UNIT[kind];
  const run = (...words: string[]) => steps.push({ action: 'run', what: ['systemctl', ...flags, ...words].join(' ') });
  if (managerRuns) run('daemon-reload');
  if (enabled) run('enable', enabled);
  if (now) run(isReplaced ? 'restart' : 'start', STARTED_UNIT[kind]);
  return steps;
}

/** Undoes {@link install}. What the unit has kept in its state folder stays. */
export function planUninstall({ kind, files, dir, flags, managerRuns }: Omit<InstallOptions, 'now'>): InstallStep[] {
  const there = files.map(({ name }) => join(dir, name)).filter((path) => readIfThere(path) !== undefined);
  if (there.length === 0) return [];
  const steps: InstallStep[] = [];
  const run = (...words: string[]) => steps.push({ action: 'run', what: ['systemctl', ...flags, ...words].join(' ') });
  const enabled = ENABLED_UNIT[kind];
  if (managerRuns) run('stop', enabled ?? STARTED_UNIT[kind]);
  if (enabled) run('disable', enabled);
  for (const what of there) steps.push({ action: 'remove', what });
  if (managerRuns) run('daemon-reload');
  return steps;
}

/** @throws VregError STORE_UNUSABLE for a file, UNSUPPORTED when systemctl fails */
export function executePlan(steps: readonly InstallStep[], dir: string, files: readonly UnitFile[]): void {
  const named = (what: string) => files.filter(({ name }) => join(dir, name) === what);
  for (const { action, what } of steps) {
    if (action === 'write' || action === 'replace') writeUnits(dir, named(what));
    if (action === 'remove') rmSync(what, { force: true });
    if (action === 'run') systemctl(what.split(' ').slice(1));
  }
}

/** Each is there whole or not at all. @throws VregError STORE_UNUSABLE */
export function writeUnits(dir: string, files: readonly UnitFile[]): void {
  for (const { name, text } of files) {
    const path = join(dir, name);
    try {
      mkdirSync(dir, { recursive: true });
      writeAtomically(path, text, { mode: 0o644 });
    } catch (cause) {
      throw new VregError('STORE_UNUSABLE', `cannot write ${path} (${(cause as NodeJS.ErrnoException).code})`, {
        hint: 'check the owner and mode of the folder',
        cause,
      });
    }
  }
}

function systemctl(words: readonly string[]): void {
  const { status, stderr, error } = spawnSync('systemctl', words, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (status === 0) return;
  const why = error ? ((error as NodeJS.ErrnoException).code ?? error.message) : stderr.trim() || `exit ${status}`;
  throw new VregError('UNSUPPORTED', `systemctl ${words.join(' ')} failed: ${why.replace(/\s+/g, ' ')}`, {
    hint: 'does systemd run here? what was done can be done again: the command may be repeated',
  });
}
