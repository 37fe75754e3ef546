/**
 * `STATE_DIR/token`: the VM's own token, for scripts on the VM. The agent itself has the token in its identity file.
 */
import { lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { looseMode, writeAtomically } from '../../src/files.ts';
import { exposedSecret } from './identity.ts';
import type { AgentLog } from './registry-session.ts';

/** Writes the file. A failure is only logged. */
export function writeTokenFile(stateDir: string, token: string, log: AgentLog): void {
  withTokenFile(stateDir, log, (path) => write(path, token));
}

/** Writes the file again if it is missing, has another text or can be read by other users, which is also logged. */
export function repairTokenFile(stateDir: string, token: string, log: AgentLog): void {
  withTokenFile(stateDir, log, (path) => {
    const found = lstatSync(path, { throwIfNoEntry: false });
    const mode = found?.isFile() ? looseMode(found.mode) : undefined;
    if (found?.isFile() && mode === undefined && readFileSync(path, 'utf8') === textOf(token)) return;
    write(path, token);
    if (mode !== undefined) log.warn({ path }, exposedSecret(path, mode));
  });
}

function withTokenFile(stateDir: string, log: AgentLog, act: (path: string) => void): void {
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
