/**
 * A disk that fails at each step in turn. Whatever the step, an error says so, what was acknowledged is there, what was
 * refused is not, no revision is missing, and the next try works.
 */
import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { type DataDir, openDataDir, readMark } from '../../../daemon/store/data-dir.ts';
import { describe } from '../../../daemon/store/failures.ts';
import { type Request, StoreService } from '../../../daemon/store/service.ts';
import type { Contents } from '../../../daemon/store/store.ts';
import { type FaultyDisk, faultyDisk } from '../../helpers/crash/faulty-libsql.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { findGaps, type JournalLine, journalOf } from '../../helpers/journal.ts';
import { putOf, removalOf } from '../../helpers/store.ts';

/** A life of a store: each step and what it leaves, as ids with their revision. */
type Step = Request & { leaves?: Record<string, number> };

const life = (heardAt: number) => ({ lastSeen: 1_700_000_000_000 + heardAt, heardAt });

function lifeOfAStore(dir: DataDir): Step[] {
  return [
    { kind: 'commit', commits: [putOf({ id: 'a', revision: 1, life: life(1) })], leaves: { a: 1 } },
    {
      kind: 'commit',
      commits: [putOf({ id: 'b', revision: 2, life: life(2) }), removalOf('a', 3), putOf({ id: 'c', revision: 4 })],
      leaves: { b: 2, c: 4 },
    },
    {
      kind: 'heartbeats',
      heartbeats: [{ id: 'b', ...life(50) }],
      listened: 60,
      records: [{ kind: 'identity', key: 'b', body: '{}' }],
    },
    { kind: 'history', id: 'b', limit: 10 },
    { kind: 'backup', path: join(dir.path, 'copy.db') },
    { kind: 'commit', commits: [putOf({ id: 'b', revision: 5, created: 2, life: life(70) })], leaves: { b: 5, c: 4 } },
    { kind: 'commit', commits: [removalOf('c', 6)], leaves: { b: 5 } },
    {
      kind: 'commit',
      commits: [{ kind: 'records', records: [{ kind: 'token', key: 't', body: '{}' }] }, removalOf('b', 7)],
      leaves: {},
    },
  ];
}

/** What a start would find: the files as they are now, opened elsewhere, since the first store has its own locked. */
interface Found {
  contents: Contents;
  journal: readonly JournalLine[];
  mark: { revision: number; saves: number };
  /** Saves of records, as the database counts them. */
  saves: number;
}

function asFound(t: TestContext, dir: DataDir): Found {
  const [copy, another] = ['opened', 'read'].map((name) => openDataDir(join(tempDir(t), name)));
  for (const each of [copy!, another!])
    cpSync(dir.path, each.path, { recursive: true, filter: (path) => !/copy\.db|\.new$/.test(path) });
  const mark = readMark(copy!) ?? { revision: 0, saves: 0 };
  const service = new StoreService(copy!);
  const contents = service.handle({ kind: 'open' }) as Contents;
  service.handle({ kind: 'close' });
  // The mark of the start that was just made says where the database is.
  const { saves } = readMark(copy!)!;
  return { contents, journal: journalOf(another!.database), mark, saves };
}

function assertHolds(t: TestContext, dir: DataDir, expected: Record<string, number>, what: string): void {
  const { contents, journal, mark, saves } = asFound(t, dir);
  assert.deepEqual(Object.fromEntries(contents.vms.map(({ id, revision }) => [id, revision])), expected, what);
  const last = contents.revision;
  assert.deepEqual(findGaps(journal, last), [], what);
  assert.ok(
    mark.revision <= last && mark.saves <= saves,
    `the mark is at ${JSON.stringify(mark)}, the database at ${last} and ${saves} saves: ${what}`,
  );
}

/** Goes through a life; what fails is tried once more when the disk is well. @returns number of refusals */
function live(t: TestContext, dir: DataDir, disk: FaultyDisk, kind: string): number {
  let refused = 0;
  let service = new StoreService(dir);
  const attempt = (request: Request, what: string): boolean => {
    try {
      service.handle(request);
      return true;
    } catch (error) {
      refused++;
      assert.equal(describe(error).kind, kind, `${what}: ${(error as Error).stack}`);
      return false;
    }
  };
  let there: Record<string, number> = {};
  let at = dir;
  const look = (what: string) => disk.aside(() => assertHolds(t, at, there, what));
  if (!attempt({ kind: 'open' }, 'open')) {
    disk.heal();
    // A start that failed is a process that ended: the next one finds its files.
    at = openDataDir(join(tempDir(t), 'data'));
    cpSync(dir.path, at.path, { recursive: true });
    service = new StoreService(at);
    service.handle({ kind: 'open' });
  }
  for (const [index, { leaves, ...request }] of lifeOfAStore(at).entries()) {
    const what = `step ${index} (${request.kind})`;
    if (!attempt(request as Request, what)) {
      look(`after a refused ${what}`);
      disk.heal();
      service.handle(request as Request);
      there = leaves ?? there;
      look(`after ${what} was tried again`);
    }
    there = leaves ?? there;
  }
  if (!attempt({ kind: 'close' }, 'close')) disk.heal();
  look('after the close');
  return refused;
}

for (const [code, kind, lasts, what] of [
  ['SQLITE_IOERR_WRITE', 'disk', 1, 'once'],
  ['SQLITE_FULL', 'full', Number.POSITIVE_INFINITY, 'until it is mended, the ROLLBACK too,'],
] as const) {
  test(`a disk that fails with ${code} ${what} from each call of a store's life on costs what is asked meanwhile, and no more`, (t) => {
    const disk = faultyDisk(t);
    const dir = () => openDataDir(join(tempDir(t), 'data'));
    assert.equal(live(t, dir(), disk, kind), 0);
    const count = disk.calls.length;
    let refusals = 0;
    for (let call = 0; call < count; call++) {
      const first = disk.calls.length + call;
      disk.fail(code, (now) => now >= first && now < first + lasts);
      refusals += live(t, dir(), disk, kind);
      assert.ok(disk.calls.length > first, `call ${call} was made`);
      disk.heal();
    }
    t.diagnostic(`${count} calls, ${refusals} refusals`);
    // Only what is tried besides may fail unseen: to end a transaction, to empty the log at the end.
    assert.ok(refusals > 0.8 * count, `${refusals} refusals`);
  });
}
