/** A lock between processes of one machine, for work that reads a file, waits for a response, and writes the file. */
import { linkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { readRegularFile } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { isRunning, markOf, type ProcessMark } from './other-process.ts';
import { folderId } from './pid-file.ts';
import { kernelRandomHex } from './random.ts';

/** Milliseconds to wait for the lock: longer than a request with the default timeout of 10 s. */
const LOCK_TIMEOUT = 15_000;
/** Milliseconds between two attempts to get the lock. */
const RETRY_DELAY = 20;

interface Lock extends ProcessMark {
  /** Device and inode of the folder. In a copy of the folder they differ, so the lock there is ignored. */
  home: string;
  /** Distinguishes two locks of one process. */
  nonce: string;
}

/**
 * Runs `work` while no other process, and no other part of this one, holds the lock. The lock of a process that has exited is removed.
 * If the disk accepts no lock, for example because it is full, runs `work` without one.
 * @param path of the lock file; its folder must exist
 * @throws VregError BUSY if the lock is not released within {@link LOCK_TIMEOUT}, and the errors of `work`
 */
export async function withLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  const nonce = kernelRandomHex(8);
  const started = performance.now();
  let isHeld = false;
  for (;;) {
    const outcome = tryLock(path, nonce);
    if (outcome !== 'taken') {
      isHeld = outcome === 'held';
      break;
    }
    if (performance.now() - started > LOCK_TIMEOUT)
      throw new VregError('BUSY', `another process on this VM holds the lock ${path}`, {
        hint: 'try again when it has finished its heartbeat',
      });
    await setTimeout(RETRY_DELAY);
  }
  try {
    return await work();
  } finally {
    if (isHeld && read(path)?.nonce === nonce) rmSync(path, { force: true });
  }
}

function tryLock(path: string, nonce: string): 'held' | 'taken' | 'unusable' {
  const draft = `${path}.${nonce}`;
  try {
    const lock: Lock = { ...markOf(process.pid), home: folderId(dirname(path)), nonce };
    writeFileSync(draft, `${JSON.stringify(lock)}\n`, { mode: 0o600 });
    // Unlike a rename, a link fails if the name exists, and the file has its content from the start.
    linkSync(draft, path);
    return 'held';
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return 'unusable';
    removeIfAbandoned(path, nonce);
    return 'taken';
  } finally {
    rmSync(draft, { force: true });
  }
}

function removeIfAbandoned(path: string, nonce: string): void {
  const lock = read(path);
  if (lock && lock.home === folderId(dirname(path)) && isRunning(lock)) return;
  const removed = `${path}.${nonce}.old`;
  try {
    renameSync(path, removed);
    // Another process may have replaced the abandoned lock by its own since it was read.
    if (read(removed)?.nonce !== lock?.nonce) linkSync(removed, path);
  } catch {
    // Another process has removed it.
  } finally {
    rmSync(removed, { force: true });
  }
}

function read(path: string): Lock | undefined {
  try {
    return JSON.parse(readRegularFile(path)?.text ?? '') as Lock;
  } catch {
    return undefined;
  }
}
