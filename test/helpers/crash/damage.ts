/** Makes a data dir with a history, damages copies of it, and checks what a start does with them. */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Contents, Store } from '../../../daemon/store/store.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { run, tempDir } from '../daemon.ts';
import type { Random } from '../random.ts';
import { fingerprint, type Opened, openDir, putOf, readStore, removalOf } from '../store.ts';

export interface Specimen {
  /** After a clean stop: everything is in the database. */
  closed: string;
  /** After kill -9: the last changes are in the log only. */
  killed: string;
  contents: Contents;
}

/** Makes a data dir of some 40 VMs with changes, removals and heartbeats. */
export async function makeSpecimen(root: string): Promise<Specimen> {
  const [live, closed, killed] = ['live', 'closed', 'killed'].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  const first = await openDir(live);
  let revision = 0;
  const life = () => ({ lastSeen: 1_700_000_000_000 + revision, heardAt: revision });
  for (let n = 0; n < 40; n++) await first.store.commit(putOf({ id: `vm-${n}`, revision: ++revision, life: life() }));
  for (let n = 0; n < 40; n += 8) await first.store.commit(removalOf(`vm-${n}`, ++revision));
  await first.store.close();
  const { store } = await openDir(live);
  for (let n = 1; n < 5; n++) {
    await store.saveHeartbeats([{ id: `vm-${n}`, lastSeen: 1_800_000_000_000 + n, heardAt: 100 + n }], 100 + n);
    await store.commit(putOf({ id: `new-${n}`, revision: ++revision, life: { ...life(), heardAt: 100 + n } }));
  }
  // No write is in progress, so the files are those that a killed process would leave.
  cpSync(live, killed, { recursive: true });
  await store.close();
  cpSync(live, closed, { recursive: true });
  const contents = await readStore(live);
  return { closed, killed, contents };
}

/** @returns a copy of a data dir, to be damaged */
export function copyOf(t: TestContext, dir: string): string {
  const copy = join(tempDir(t), 'data');
  cpSync(dir, copy, { recursive: true });
  return copy;
}

/**
 * Runs SQL on a closed database. It uses a process of its own, because the library unlocks the file only when its process ends.
 * @param leaveLog kills the process, so that the changes stay in the log
 */
export async function edit(dir: string, sql: string, { leaveLog = false } = {}): Promise<void> {
  const end = leaveLog ? `; process.kill(process.pid, 'SIGKILL')` : '';
  const program = `new (require('libsql'))(process.argv[1]).exec(process.argv[2])${end}`;
  const { code, signal, stderr } = await run(process.execPath, ['-e', program, join(dir, 'registry.db'), sql], {
    env: process.env,
    cwd: import.meta.dirname,
  });
  assert.deepEqual({ code, signal }, leaveLog ? { code: null, signal: 'SIGKILL' } : { code: 0, signal: null }, stderr);
}

/** Asserts that a start fails with an error that names the file and the way out, and changes no byte of any file. */
export async function assertRefused(dir: string, what: RegExp): Promise<void> {
  const before = fingerprint(dir);
  await assert.rejects(readStore(dir), (error) => {
    assert.ok(error instanceof VregError);
    assert.equal(error.code, 'STORE_DAMAGED', error.message);
    assert.match(error.message, what);
    assert.ok(error.message.includes(join(dir, 'registry.')), error.message);
    assert.match(error.hint!, /backup|remove the file/);
    return true;
  });
  assert.deepEqual(fingerprint(dir), before);
}

export interface Flip {
  specimen: Specimen;
  /** Which of the specimen's data dirs to damage. */
  as: 'closed' | 'killed';
  file: 'registry.db' | 'registry.db-wal' | 'registry.mark';
  random: Random;
  /** Also changes each VM afterwards. This is slower, but reveals a damaged index. */
  andChange?: boolean;
}

/**
 * Flips one bit of a file, and asserts that a start fails and changes no byte, or finds the original contents.
 * @returns whether the start failed
 */
export async function flipOneBit(t: TestContext, { specimen, as, file, random, andChange }: Flip): Promise<boolean> {
  const copy = copyOf(t, specimen[as]);
  const path = join(copy, file);
  const bytes = readFileSync(path);
  const bit = random.below(8 * bytes.length);
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  writeFileSync(path, bytes);
  const before = fingerprint(copy);
  let opened: Opened;
  try {
    opened = await openDir(copy);
  } catch (error) {
    // A flipped bit in the schema version looks like the database of another vreg.
    assert.match((error as VregError).code, /^STORE_(DAMAGED|OLDER|NEWER)$/, `bit ${bit} of ${file}: ${error}`);
    assert.deepEqual(fingerprint(copy), before, `bit ${bit} of ${file}`);
    return true;
  }
  const { store, contents } = opened;
  if (andChange) await changeAll(contents, store);
  await store.close();
  assert.deepEqual(contents, specimen.contents, `bit ${bit} of ${file}`);
  if (andChange) {
    const left = contents.vms.filter((_, index) => index % 2 === 1);
    assert.deepEqual(idsOf(await readStore(copy)), idsOf({ ...contents, vms: left }), `bit ${bit} of ${file}`);
  }
  return false;
}

export function idsOf({ vms }: Contents): string[] {
  return vms.map(({ id }) => id);
}

/** Updates every VM and removes every other one. A damaged index would miss some. */
async function changeAll({ vms, revision }: Contents, store: Store) {
  let next = revision;
  for (const { id, created } of vms) {
    void store.commit(putOf({ id, created, revision: ++next, life: { lastSeen: 1_900_000_000_000, heardAt: 1000 } }));
  }
  const removals = vms.filter((_, index) => index % 2 === 0).map(({ id }) => store.commit(removalOf(id, ++next)));
  await Promise.all(removals);
}
