/**
 * Makes the disk fail at each step in turn. In every case the step reports an error, acknowledged changes are there, refused
 * changes are not, no revision is missing, and a retry works.
 */
import assert from 'node:assert/strict';
import { cpSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { type DataDir, openDataDir, readHighWaterMark } from '../../../daemon/store/data-dir.ts';
import { toFailure } from '../../../daemon/store/failures.ts';
import { batchesOf } from '../../../daemon/store/heartbeat-batch.ts';
import { GoneError } from '../../../daemon/store/integrity.ts';
import { withJournalText } from '../../../daemon/store/journal.ts';
import type { Change, Contents } from '../../../daemon/store/store.ts';
import { type Request, StoreBackend } from '../../../daemon/store/worker.ts';
import { type FaultyDisk, faultyDisk } from '../../helpers/crash/faulty-libsql.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { findGaps, type JournalLine, journalOf } from '../../helpers/journal.ts';
import { chain, putOf, removalOf, tokensOf } from '../../helpers/store.ts';

/** A step in the life of a store, and the VMs with their revisions after it. */
type Step = Request & { leaves?: Record<string, number> };

const commitOf = (...changes: Change[]) => ({ kind: 'commit', changes: changes.map(withJournalText) }) as const;

const life = (heardAt: number) => ({ lastSeen: 1_700_000_000_000 + heardAt, heardAt });

function stepsFor(dir: DataDir): Step[] {
  return [
    { ...commitOf(putOf({ id: 'a', revision: 1, life: life(1) })), leaves: { a: 1 } },
    {
      ...commitOf(putOf({ id: 'b', revision: 2, life: life(2) }), removalOf('a', 3), putOf({ id: 'c', revision: 4 })),
      leaves: { b: 2, c: 4 },
    },
    ...[...batchesOf([{ id: 'b', ...life(50) }])].map((batch) => ({ kind: 'stageHeartbeats', batch }) as const),
    { kind: 'saveHeartbeats', listened: 60, records: [{ kind: 'identity', key: 'b', body: '{}' }] },
    { kind: 'tryWrite' },
    { kind: 'history', id: 'b', limit: 10 },
    { kind: 'backup', path: join(dir.path, 'copy.db') },
    { ...commitOf(putOf({ id: 'b', revision: 5, created: 2, life: life(70) })), leaves: { b: 5, c: 4 } },
    { ...commitOf(removalOf('c', 6)), leaves: { b: 5 } },
    { ...commitOf(tokensOf(7, [{ kind: 'token', key: 't', body: '{}' }]), removalOf('b', 8)), leaves: {} },
  ];
}

/** The contents that a start would find. They are read from a copy, because the first store has locked its files. */
interface Found {
  contents: Contents;
  journal: readonly JournalLine[];
  mark: { revision: number; saves: number };
  /** Saves of records, as counted by the database. */
  saves: number;
}

function readCopy(t: TestContext, dir: DataDir): Found {
  const [copy, another] = ['opened', 'read'].map((name) => openDataDir(join(tempDir(t), name)));
  for (const each of [copy!, another!])
    cpSync(dir.path, each.path, { recursive: true, filter: (path) => !/copy\.db|\.new$/.test(path) });
  const mark = readHighWaterMark(copy!) ?? { revision: 0, saves: 0 };
  const service = new StoreBackend(copy!);
  const contents = service.handle({ kind: 'open' }) as Contents;
  service.handle({ kind: 'close' });
  // The start above wrote a mark with the count in the database.
  const { saves } = readHighWaterMark(copy!)!;
  return { contents, journal: journalOf(another!.database), mark, saves };
}

function assertHolds(t: TestContext, dir: DataDir, expected: Record<string, number>, what: string): void {
  const { contents, journal, mark, saves } = readCopy(t, dir);
  assert.deepEqual(Object.fromEntries(contents.vms.map(({ id, revision }) => [id, revision])), expected, what);
  const last = contents.revision;
  assert.deepEqual(findGaps(journal, last), [], what);
  assert.ok(
    mark.revision <= last && mark.saves <= saves,
    `the mark is at ${JSON.stringify(mark)}, the database at ${last} and ${saves} saves: ${what}`,
  );
}

/** Runs all steps. A step that fails is retried after the disk is repaired. @returns number of failures */
function runSteps(t: TestContext, dir: DataDir, disk: FaultyDisk, kind: string): number {
  let failures = 0;
  let backend = new StoreBackend(dir);
  let last = '';
  const handle = (request: Request) => {
    const chained = request.kind === 'commit' ? { ...request, changes: chain(request.changes, last) } : request;
    const answer = backend.handle(chained);
    if (request.kind === 'open') last = (answer as Contents).positions.at(-1)!.tag;
    if (request.kind === 'commit') last = request.changes.at(-1)!.tag;
  };
  const attempt = (request: Request, what: string): boolean => {
    try {
      handle(request);
      return true;
    } catch (error) {
      failures++;
      assert.equal(toFailure(error).kind, kind, `${what}: ${(error as Error).stack}`);
      return false;
    }
  };
  let expected: Record<string, number> = {};
  let at = dir;
  const verify = (what: string) => disk.suspend(() => assertHolds(t, at, expected, what));
  if (!attempt({ kind: 'open' }, 'open')) {
    disk.heal();
    // A process whose start failed has ended; the next one finds its files.
    at = openDataDir(join(tempDir(t), 'data'));
    cpSync(dir.path, at.path, { recursive: true });
    backend = new StoreBackend(at);
    handle({ kind: 'open' });
  }
  for (const [index, { leaves, ...request }] of stepsFor(at).entries()) {
    const what = `step ${index} (${request.kind})`;
    if (!attempt(request as Request, what)) {
      verify(`after a failed ${what}`);
      disk.heal();
      handle(request as Request);
      expected = leaves ?? expected;
      verify(`after ${what} was retried`);
    }
    expected = leaves ?? expected;
  }
  if (!attempt({ kind: 'close' }, 'close')) disk.heal();
  verify('after the close');
  return failures;
}

for (const [code, kind, lasts, what] of [
  ['SQLITE_IOERR_WRITE', 'disk', 1, 'once'],
  ['SQLITE_FULL', 'full', Number.POSITIVE_INFINITY, 'until it is repaired (the ROLLBACK fails too)'],
] as const) {
  test(`a disk that fails with ${code} ${what}, at each call in turn, loses only the requests that fail`, (t) => {
    const disk = faultyDisk(t);
    const dir = () => openDataDir(join(tempDir(t), 'data'));
    assert.equal(runSteps(t, dir(), disk, kind), 0);
    const count = disk.calls.length;
    let failures = 0;
    for (let call = 0; call < count; call++) {
      const first = disk.calls.length + call;
      disk.fail(code, (now) => now >= first && now < first + lasts);
      failures += runSteps(t, dir(), disk, kind);
      assert.ok(disk.calls.length > first, `call ${call} was made`);
      disk.heal();
    }
    t.diagnostic(`${count} calls, ${failures} failures`);
    // Only optional calls may fail silently: a ROLLBACK, and the checkpoint at the end.
    assert.ok(failures > 0.8 * count, `${failures} failures`);
  });
}

test('a save that fails because the database is gone leaves nothing staged for the next one', (t) => {
  const dir = openDataDir(join(tempDir(t), 'data'));
  const backend = new StoreBackend(dir);
  const { positions } = backend.handle({ kind: 'open' }) as Contents;
  const puts = ['a', 'b'].map((id, n) => putOf({ id, revision: n + 1, life: life(1) }));
  backend.handle(commitOf(...chain(puts, positions.at(-1)!.tag)));
  const stage = (id: string) => {
    for (const batch of batchesOf([{ id, ...life(50) }])) backend.handle({ kind: 'stageHeartbeats', batch });
  };
  const save = () => backend.handle({ kind: 'saveHeartbeats', listened: 60, records: [] });
  stage('a');
  renameSync(dir.database, `${dir.database}.away`);
  assert.throws(save, GoneError);
  renameSync(`${dir.database}.away`, dir.database);
  stage('b');
  save();
  const { vms } = readCopy(t, dir).contents;
  backend.handle({ kind: 'close' });
  assert.deepEqual(Object.fromEntries(vms.map(({ id, heardAt }) => [id, heardAt])), { a: 1, b: 50 });
});
