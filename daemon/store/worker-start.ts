/** Starts the store worker: as a thread, or as a child process that checks a database. */
import { type ChildProcess, spawn } from 'node:child_process';
import { Worker } from 'node:worker_threads';
import { isSingleExecutable, programFile, readProgramFile, STORE_WORKER } from '../../src/program.ts';
import { addonPath } from './addon.ts';
import type { DataDir } from './data-dir.ts';

/** The bundle of `worker.ts`. Unbundled sources use the one from the last build. */
const BUNDLE = 'dist/store-worker.cjs';

/** Starts the thread that owns the database. */
export function startWorker(dir: DataDir): Worker {
  // Without the flags of this process, which are not for the bundle: the loader of TypeScript in tests takes longer to load than
  // the worker itself.
  const options = { workerData: { dir, addon: addonPath() }, name: 'vreg-store', execArgv: [] };
  if (isSingleExecutable) return new Worker(readProgramFile(BUNDLE), { ...options, eval: true });
  return new Worker(programFile(BUNDLE), options);
}

/**
 * Starts the child process that reads the entire database. It ends when its stdin closes, so it never outlives this process.
 * @param action `load` to print the contents, too
 */
export function startCheck(dir: DataDir, action: 'check' | 'load' = 'check'): ChildProcess {
  const addon = addonPath();
  const words = [isSingleExecutable ? STORE_WORKER : programFile(BUNDLE), action, dir.path];
  return spawn(process.execPath, addon === undefined ? words : [...words, addon], { stdio: ['pipe', 'pipe', 'pipe'] });
}
