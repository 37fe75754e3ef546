/** Leaves nothing behind when the benchmark ends, even if a signal ends it. */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';

const children = new Set<ChildProcess>();
const folders = new Set<string>();

/** Registers a process that is killed when the benchmark ends. */
export function killAtExit<T extends ChildProcess>(child: T): T {
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

/** Makes a folder that is removed when the benchmark ends. @param parent its parent folder */
export function tempFolder(parent: string): string {
  const folder = mkdtempSync(join(parent, 'vreg-bench-'));
  folders.add(folder);
  return folder;
}

export function removeFolder(folder: string): void {
  // A process that has just been killed may still write to it.
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  folders.delete(folder);
}

/** Ends this process by these signals as others do: with 128 plus the number of the signal. */
export function exitOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => process.exit(128 + constants.signals[signal]));
}

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  for (const folder of folders) removeFolder(folder);
});
