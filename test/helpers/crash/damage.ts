/** A data dir with a history, copies of it with something wrong, and what a start on them may do. */
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
  /** As a clean stop leaves it: all in the database. */
  closed: string;
  /** As kill -9 leaves it: the last changes are in the log only. */
  killed: string;
  contents: Contents;
}

/** Makes a data dir of some 40 VMs with changes, removals and beats. */
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
  // Nothing is on its way, so the files are what a killed process would leave.
  cpSync(live, killed, { recursive: true });
  await store.close();
  cpSync(live, closed, { recursive: true });
  const contents = await readStore(live);
  return { closed, killed, contents };
}

/** A copy of a data dir, to be damaged. */
export function copyOf(t: TestContext, dir: string): string {
  const copy = join(tempDir(t), 'data');
  cpSync(dir, copy, { recursive: true });
  return copy;
}

/** Runs SQL on a database that is closed, in a process of its own, since the library lets go of the file only with the process. */
export async function edit(dir: string, sql: string): Promise<void> {
  const program = `new (require('libsql'))(process.argv[1]).exec(process.argv[2])`;
  const { code, stderr } = await run(process.execPath, ['-e', program, join(dir, 'registry.db'), sql], {
    env: process.env,
    cwd: import.meta.dirname,
  });
  assert.equal(code, 0, stderr);
}

/** A start refuses with a sentence, names the file, says what to do, and changes no byte of any file. */
export async function assertRefused(dir: string, what: RegExp): Promise<void> {
  const before = fingerprint(dir);
  await assert.rejects(readStore(dir), (error) => {
    assert.ok(error instanceof VregError);
    assert.equal(error.code, 'STORE_DAMAGED', error.message);
    assert.match(error.message, what);
    assert.ok(error.message.includes(join(dir, 'registry.')), error.message);
    assert.match(error.hint!, /backup|remove the mark/);
    return true;
  });
  assert.deepEqual(fingerprint(dir), before);
}

export interface Flip {
  specimen: Specimen;
  /** Where the flip is made: the specimen as it was stopped, or as it was killed. */
  as: 'closed' | 'killed';
  file: 'registry.db' | 'registry.db-wal' | 'registry.mark';
  random: Random;
  /** Also changes each VM afterwards: slower, but sees a damaged index. */
  andChange?: boolean;
}

/**
 * Flips one bit of a file. A start on it refuses and changes no byte, or has exactly what is right.
 * @returns whether the start refused
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
    // A flipped version of the schema is that of a newer vreg, for all that can be known.
    assert.match((error as VregError).code, /^STORE_(DAMAGED|NEWER)$/, `bit ${bit} of ${file}: ${error}`);
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

/** Updates every VM, and removes every other: a damaged index would miss some. */
async function changeAll({ vms, revision }: Contents, store: Store) {
  let next = revision;
  for (const { id, created } of vms) {
    void store.commit(putOf({ id, created, revision: ++next, life: { lastSeen: 1_900_000_000_000, heardAt: 1000 } }));
  }
  const removals = vms.filter((_, index) => index % 2 === 0).map(({ id }) => store.commit(removalOf(id, ++next)));
  await Promise.all(removals);
}
