/** Reads a backup completely, to move it into another engine. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JOURNAL_LENGTH } from '../../src/protocol/events.ts';
import { createBudgets } from '../limits/budgets.ts';
import { openDataDir } from './data-dir.ts';
import { createDraftFolder } from './draft-folder.ts';
import type { BackupContents } from './moving.ts';
import { checkCopy, copyFiles } from './restore.ts';
import { SqliteStore } from './sqlite-store.ts';
import type { Contents, JournalItem } from './store.ts';

/** @throws VregError STORE_DAMAGED, STORE_OLDER, STORE_NEWER, STORE_UNUSABLE, USAGE (the file cannot be read, or is no backup) */
export async function readBackup(file: string): Promise<BackupContents> {
  const folder = createDraftFolder(join(tmpdir(), 'vreg-restore-'));
  try {
    const draft = openDataDir(folder.path);
    copyFiles(file, draft);
    await checkCopy(file, draft);
    const { store, contents } = await SqliteStore.open({
      dataDir: draft.path,
      budget: createBudgets().changes,
      decode: (vm) => vm,
      onDeath: (error) => {
        throw error;
      },
    });
    try {
      return { ...contents, history: await readHistory(store, contents) };
    } finally {
      await store.close();
    }
  } finally {
    folder.remove();
  }
}

async function readHistory(
  store: SqliteStore,
  { vms, positions, revision }: Contents,
): Promise<Map<string, JournalItem[]>> {
  const oldest = positions[0]?.revision ?? 0;
  // Undefined for changes from before schema 4: the history of VMs that were removed before is then not moved.
  const changed = (await store.lastChanges(Math.max(0, oldest - 1), revision)) ?? [];
  const ids = new Set([...vms, ...changed].map(({ id }) => id));
  const history = new Map<string, JournalItem[]>();
  for (const id of ids) history.set(id, await store.history(id, JOURNAL_LENGTH));
  return history;
}
