/** Writes a backup of an engine that has no database of its own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { VregError } from '../../src/protocol/errors.ts';
import { createBudgets } from '../limits/budgets.ts';
import type { Filling } from './database.ts';
import { SqliteStore } from './sqlite-store.ts';

/**
 * Creates a database beside the path, fills it, checks it, and copies it to the path.
 * @param write calls `fill` with the contents, in parts that fit into memory
 * @throws VregError STORE_FULL, STORE_FAILED (about the disk of this machine), errors of the file system, what `write` throws, and
 * the abort reason of the signal
 */
export async function writeBackup(
  path: string,
  write: (fill: (part: Filling) => Promise<void>) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const draft = mkdtempSync(`${path}.`);
  try {
    const store = await openStore(draft);
    try {
      await write((part) => store.fill(part));
      await store.backup(path, signal);
    } finally {
      await store.close().catch(() => {});
    }
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

async function openStore(dataDir: string): Promise<SqliteStore> {
  try {
    // If the worker dies, the request in progress fails.
    const options = { dataDir, budget: createBudgets().changes, decode: () => undefined, onDeath: () => {} };
    return (await SqliteStore.open(options)).store;
  } catch (cause) {
    throw new VregError('STORE_FAILED', `the registry could not create a backup: ${(cause as Error).message}`, {
      hint: 'check the disk of the registry and its free space (df, dmesg), then retry',
      retryAfter: 5,
      cause,
    });
  }
}
