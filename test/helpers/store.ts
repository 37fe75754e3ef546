/** Opens, fills and fingerprints data dirs for tests of the store. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createBudgets } from '../../daemon/limits/budgets.ts';
import type { Occasion } from '../../daemon/registry/events.ts';
import { type LastSeen, type Spec, VmRecord } from '../../daemon/registry/vm-record.ts';
import { SqliteStore, type SqliteStoreOptions } from '../../daemon/store/sqlite-store.ts';
import type { Change, Contents, RecordChange, Store, StoredVm } from '../../daemon/store/store.ts';
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

/** The tag of a test's change: its revision in hexadecimal. */
export function tagAt(revision: number): string {
  return revision.toString(16).padStart(16, '0');
}

/** The occasion of a test's event. */
export function occasionAt(revision: number): Occasion {
  return { position: { revision, tag: tagAt(revision) }, at: 0 };
}

/** A test's change has no previous tag until {@link chain} or the store of {@link openDir} fills it in. */
const UNCHAINED = '';

/** Fills in the previous tags of a test's changes. @param last tag of the store */
export function chain<C>(changes: readonly Change<C>[], last: string): Change<C>[] {
  let previousTag = last;
  return changes.map((change) => {
    const chained = change.previousTag === UNCHAINED ? { ...change, previousTag } : change;
    previousTag = change.tag;
    return chained;
  });
}

export function putOf({ id, revision, created = revision, life = LIFE, more = {} }: Put): Change {
  const vm = new VmRecord(
    { ...aVm({ id, name: id }), registeredAt: '2026-01-01T00:00:00.000Z', ...more },
    { created, revision, tag: tagAt(revision) },
    life,
  ).toStored();
  const note = { type: 'registered', at: life.lastSeen, by: 'test', changes: {} } as const;
  return { kind: 'put', vm, revision, tag: tagAt(revision), previousTag: UNCHAINED, note };
}

export function removalOf(id: string, revision: number): Change {
  return {
    kind: 'remove',
    id,
    revision,
    tag: tagAt(revision),
    previousTag: UNCHAINED,
    note: { type: 'deregistered', at: LIFE.lastSeen, by: 'test', changes: {} },
  };
}

/** A change of access tokens only. */
export function tokensOf(revision: number, records: readonly RecordChange[]): Change {
  const note = { type: 'token', at: LIFE.lastSeen, by: 'test', changes: {} } as const;
  return { kind: 'token', revision, tag: tagAt(revision), previousTag: UNCHAINED, note, records };
}

export interface Opened {
  store: Store;
  contents: Contents;
}

/** Opens the store of a data dir. It fills in the previous tags of the changes that this module makes. */
export async function openDir(dataDir: string, options: Partial<SqliteStoreOptions<StoredVm>> = {}): Promise<Opened> {
  const { store, contents } = await SqliteStore.open({
    dataDir,
    budget: createBudgets().changes,
    decode: (vm) => vm,
    onDeath: (error) => {
      throw error;
    },
    ...options,
  });
  const commit = store.commit.bind(store);
  let durable = contents.positions.at(-1)!.tag;
  let last = durable;
  store.commit = (change) => {
    if (change.previousTag !== UNCHAINED) return commit(change);
    const committed = commit({ ...change, previousTag: last });
    last = change.tag;
    return committed.then(
      (revision) => {
        durable = change.tag;
        return revision;
      },
      (error) => {
        last = durable;
        throw error;
      },
    );
  };
  return { store, contents };
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
