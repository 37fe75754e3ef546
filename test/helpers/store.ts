/** Opens, fills and fingerprints data dirs for tests of the store. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createBudgets } from '../../daemon/limits.ts';
import { type LastSeen, type Spec, VmRecord } from '../../daemon/registry/vm-record.ts';
import { SqliteStore } from '../../daemon/store/sqlite-store.ts';
import type { Change, Contents, Store } from '../../daemon/store/store.ts';
import { aVm } from './vm.ts';

const LIFE: LastSeen = { lastSeen: Date.parse('2026-01-01T00:00:00.000Z'), heardAt: 0 };

export interface Put {
  id: string;
  revision: number;
  /** Revision of the registration; `revision` if it is left out. */
  created?: number;
  life?: LastSeen;
  more?: Partial<Spec>;
}

export function putOf({ id, revision, created = revision, life = LIFE, more = {} }: Put): Change {
  const vm = new VmRecord(
    { ...aVm({ id, name: id }), registeredAt: '2026-01-01T00:00:00.000Z', ...more },
    { created, revision },
    life,
  ).toStored();
  return { kind: 'put', vm, revision, note: { type: 'registered', at: life.lastSeen, by: 'test', changes: {} } };
}

export function removalOf(id: string, revision: number): Change {
  return {
    kind: 'remove',
    id,
    revision,
    note: { type: 'deregistered', at: LIFE.lastSeen, by: 'test', changes: {} },
  };
}

export interface Opened {
  store: Store;
  contents: Contents;
}

/** Opens the store of a data dir. */
export function openDir(dataDir: string): Promise<Opened> {
  return SqliteStore.open({
    dataDir,
    budget: createBudgets().changes,
    onDeath: (error) => {
      throw error;
    },
  });
}

/** Opens the store of a data dir, and closes it at the end of the test unless the test did. */
export async function openStore(t: TestContext, dataDir: string): Promise<Opened> {
  const { store, contents } = await openDir(dataDir);
  let closed: Promise<void> | undefined;
  const close = store.close.bind(store);
  store.close = () => {
    closed ??= close();
    return closed;
  };
  t.after(() => store.close());
  return { store, contents };
}

/** Opens a data dir, closes it again, and returns its contents. */
export async function readStore(dataDir: string): Promise<Contents> {
  const { store, contents } = await openDir(dataDir);
  await store.close();
  return contents;
}

/** Name and SHA-256 of each file below a folder. */
export function fingerprint(dir: string): Record<string, string> {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
  const paths = files.map((file) => join(file.parentPath, file.name)).sort();
  return Object.fromEntries(paths.map((path) => [path, createHash('sha256').update(readFileSync(path)).digest('hex')]));
}
