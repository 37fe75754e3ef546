/** The VM's own token for its scripts: `--token-file`. The agent itself has it in its identity. */
import { lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { looseMode, writeAtomically } from '../../src/files.ts';
import type { AgentLog } from './registry-session.ts';

/** Writes it; that it cannot be is told, and no end. */
export function writeTokenFile(stateDir: string, token: string, log: AgentLog): void {
  inTokenFile(stateDir, log, (path) => write(path, token));
}

/** At a start: writes it again where it is gone, holds something else, or can be read by others, which is told. */
export function repairTokenFile(stateDir: string, token: string, log: AgentLog): void {
  inTokenFile(stateDir, log, (path) => {
    const found = lstatSync(path, { throwIfNoEntry: false });
    const mode = found?.isFile() ? looseMode(found.mode) : undefined;
    if (found?.isFile() && mode === undefined && readFileSync(path, 'utf8') === textOf(token)) return;
    write(path, token);
    if (mode === undefined) return;
    const what = `${path} could be read by others (mode ${mode})`;
    log.warn(
      { path },
      `${what}; it is closed now, but revoke this VM's token if somebody may have it: vreg token revoke`,
    );
  });
}

function inTokenFile(stateDir: string, log: AgentLog, act: (path: string) => void): void {
  const path = join(stateDir, 'token');
  try {
    act(path);
  } catch (error) {
    log.warn({ path }, `cannot write this VM's token to ${path}: ${(error as Error).message}`);
  }
}

function write(path: string, token: string): void {
  writeAtomically(path, textOf(token), { mode: 0o600, sync: true });
}

function textOf(token: string): string {
  return `${token}\n`;
}
