/**
 * Loads the native addon of libsql in the single executable. The build puts this module in the place of @neon-rs/load, with
 * which libsql finds its addon in node_modules.
 */
import { isMainThread, workerData } from 'node:worker_threads';

/** @throws the error of the system's loader */
export function load(): unknown {
  const module = { exports: {} };
  process.dlopen(module, isMainThread ? process.argv[4]! : (workerData as { addon: string }).addon);
  return module.exports;
}
