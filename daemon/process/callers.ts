/**
 * The programs for which an agent runs (`--while-pid`). Each has a file in the state folder, so that a second session of a coding
 * agent continues to use the agent that the first one has started.
 */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readRegularFile, writeAtomically } from '../../src/files.ts';
import { isRunning, markOf, type ProcessMark } from './other-process.ts';
import { makeStateDir, unusableStateDir } from './state-dir.ts';

/** In the state folder. */
const FOLDER = 'callers';

/** Records that an agent with this state folder is to run at least as long as the process. @throws VregError STORE_UNUSABLE */
export function addCaller(stateDir: string, pid: number): void {
  const dir = join(stateDir, FOLDER);
  makeStateDir(stateDir);
  makeStateDir(dir);
  const path = join(dir, String(pid));
  try {
    // Hooks of one program may run at the same time, so each writes a temporary file of its own.
    writeAtomically(path, `${JSON.stringify(markOf(pid))}\n`, { mode: 0o600, draft: `${path}.${process.pid}` });
  } catch (cause) {
    throw unusableStateDir(dir, cause);
  }
}

/** Whether a recorded process still runs. Removes the files of the others. */
export function hasCaller(stateDir: string): boolean {
  const dir = join(stateDir, FOLDER);
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return false;
  }
  // A write in progress has a name with a suffix.
  const running = names.filter((name) => /^\d+$/.test(name)).filter((name) => isCaller(join(dir, name), Number(name)));
  return running.length > 0;
}

function isCaller(file: string, pid: number): boolean {
  const mark = readMark(file);
  if (mark?.pid === pid && isRunning(mark)) return true;
  try {
    rmSync(file, { force: true });
  } catch {
    // On a read-only disk the file remains, and is ignored.
  }
  return false;
}

function readMark(file: string): ProcessMark | undefined {
  try {
    return JSON.parse(readRegularFile(file)?.text ?? '') as ProcessMark;
  } catch {
    return undefined;
  }
}
