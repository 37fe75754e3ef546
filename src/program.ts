/**
 * The running program: the command that starts it again, and the files that belong to it. `npm run build:exe` builds a single
 * executable, which contains these files as assets with the same names.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { getAsset, isSea } from 'node:sea';

/** Set by the build to the folder of the bundle. */
declare const __DIST__: string | undefined;
const ROOT = typeof __DIST__ === 'string' ? join(__DIST__, '..') : join(import.meta.dirname, '..');

/** First argument with which the single executable runs the store worker instead of a command. */
export const STORE_WORKER = '__store-worker';

/** True in the single executable; false if Node runs the program from the files of the package. */
export const isSingleExecutable: boolean = isSea();

/** Absolute paths: the single executable, or Node and the script. Arguments follow them. */
export function programCommand(): [program: string, ...script: string[]] {
  return isSingleExecutable ? [process.execPath] : [process.execPath, process.argv[1]!];
}

/** Absolute path of a file of the package. The single executable has no such files. @param name path in the package */
export function programFile(name: string): string {
  return join(ROOT, name);
}

/** Reads a text file of the package, or of the single executable. @param name path in the package */
export function readProgramFile(name: string): string {
  return isSingleExecutable ? getAsset(name, 'utf8') : readFileSync(programFile(name), 'utf8');
}
