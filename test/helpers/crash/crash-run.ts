/**
 * The daemon is killed over and over while it is written to; after each kill all that it acknowledged must be there.
 * The writers never rest: while it is dead, starts, or reads its log they try again, so it comes up under load.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { openDataDir, readMark } from '../../../daemon/store/data-dir.ts';
import { StoreService } from '../../../daemon/store/service.ts';
import type { Contents } from '../../../daemon/store/store.ts';
import { REVISION_HEADER, type VmList } from '../../../src/protocol/api.ts';
import type { History } from '../../../src/protocol/events.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import { type Daemon, startDaemon, tempDir } from '../daemon.ts';
import { findGaps, type JournalLine, journalOf } from '../journal.ts';
import type { Random } from '../random.ts';
import { isChange, readEvents } from '../stream.ts';
import type { Writer } from './crash.ts';

/** Acknowledgements after which the daemon is killed, at most: enough that the log is moved into the database at times. */
const MOST_ACKNOWLEDGED = 600;
/** One kill in so many comes while the daemon starts. */
const EARLY = 3;
/** Milliseconds after which such a kill comes, at most: a start takes some 250. */
const START = 300;

export const startQuietDaemon = (t: TestContext, home?: string): Promise<Daemon> =>
  startDaemon(t, { args: ['--log-level', 'warn'], ...(home === undefined ? {} : { home }) });

export async function listAll({ url }: Daemon): Promise<Vm[]> {
  const answer = (await (await fetch(`${url}/registry/vms`)).json()) as VmList;
  assert.equal(answer.count, answer.vms.length);
  return answer.vms;
}

/** Lets the writers write, and kills the daemon after some acknowledgements. @returns how many there were */
export async function writeAndKill(daemon: Daemon, writers: readonly Writer[], limit: number): Promise<number> {
  let acknowledged = 0;
  const onAcknowledged = () => {
    if (++acknowledged === limit) daemon.child.kill('SIGKILL');
  };
  await Promise.all(writers.map((writer) => writer.run(daemon.url, onAcknowledged)));
  const { signal } = await daemon.end('SIGKILL');
  assert.equal(signal, 'SIGKILL', daemon.said());
  return acknowledged;
}

export function findLosses(writers: readonly Writer[], vms: readonly Vm[]): string[] {
  return writers.flatMap((writer) => writer.findLosses(vms));
}

/** What the files of a data dir hold, read from a copy, so that the next start finds them as they were left. */
export interface Left {
  /** Newest registration first, as they are served. */
  vms: Vm[];
  revision: number;
  journal: JournalLine[];
  /** Revision of the mark; 0 when there is none. */
  mark: number;
}

export function readLeft(t: TestContext, dataDir: string): Left {
  const root = tempDir(t);
  // Twice, since a store that was opened in this process is let go only with it.
  const [opened, read] = ['opened', 'read'].map((name) => {
    const dir = join(root, name);
    cpSync(dataDir, dir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    return openDataDir(dir);
  });
  const service = new StoreService(opened!);
  const mark = readMark(read!)?.revision ?? 0;
  const { vms, revision } = service.handle({ kind: 'open' }) as Contents;
  service.handle({ kind: 'close' });
  const journal = journalOf(read!.database);
  rmSync(root, { recursive: true });
  return {
    vms: vms.map((vm) => JSON.parse(VmRecord.fromStored(vm).json) as Vm).reverse(),
    revision,
    journal,
    mark,
  };
}

/** All that is wrong with what is left, as far as the writers know. */
export function findFaults({ vms, revision, journal, mark }: Left, writers: readonly Writer[]): string[] {
  return [
    ...findLosses(writers, vms),
    ...findGaps(journal, revision),
    ...writers.flatMap((writer) => writer.findUnjournaled(journal)),
    ...(mark > revision ? [`the mark is at ${mark}, but the database is at ${revision}`] : []),
  ];
}

/** Revisions that a watcher of one life of a daemon was told, in the order of the telling. */
async function watchRevisions(t: TestContext, { url }: Daemon): Promise<() => readonly { revision: number }[]> {
  const { told } = await readEvents(t, url);
  return () => told.map(({ event }) => event).filter(isChange);
}

/** @returns number of acknowledgements in all, and of kills that came before the daemon could serve */
export async function crashOver(t: TestContext, kills: number, writers: readonly Writer[], random: Random) {
  const home = tempDir(t);
  const dataDir = join(home, 'data');
  const socketPath = join(home, 'vreg.sock');
  let acknowledged = 0;
  let early = 0;
  let enough: { at: number; tell(): void } | undefined;
  const onAcknowledged = () => {
    if (++acknowledged === enough?.at) enough.tell();
  };
  const stop = new AbortController();
  t.after(() => stop.abort());
  const writing = Promise.all(writers.map((writer) => writer.outlast({ socketPath }, stop.signal, onAcknowledged)));
  // One that finds a loss ends the test at once, and not with its last kill.
  const failed = writing.then(() => {});
  failed.catch(() => {});
  const start = (onSpawn?: (child: ChildProcess) => void) =>
    startDaemon(t, { home, args: ['--log-level', 'warn', '--socket', socketPath], ...(onSpawn ? { onSpawn } : {}) });
  const check = (what: string) => assert.deepEqual(findFaults(readLeft(t, dataDir), writers), [], what);

  await (await start()).end('SIGKILL');
  for (let kill = 1; kill <= kills; kill++) {
    const what = `after kill ${kill} of ${kills}`;
    if (random.below(EARLY) === 0) {
      const delay = random.below(START);
      const [child, served] = await startAndKill(start, delay);
      assert.equal(child.signalCode, 'SIGKILL', what);
      if (!served) early++;
    } else {
      const daemon = await start();
      const revisions = await watchRevisions(t, daemon);
      await Promise.race([
        failed,
        new Promise<void>((tell) => {
          enough = { at: acknowledged + 1 + random.below(MOST_ACKNOWLEDGED), tell };
        }),
      ]);
      const { signal } = await daemon.end('SIGKILL');
      assert.equal(signal, 'SIGKILL', daemon.said());
      const [first, ...rest] = revisions();
      assert.deepEqual(findGapsFrom(first?.revision ?? 0, rest), [], what);
    }
    check(what);
  }
  const daemon = await start();
  stop.abort();
  await writing;
  const vms = await listAll(daemon);
  assert.deepEqual(findLosses(writers, vms), []);
  await assertHistories(daemon, readLeft(t, dataDir), vms);
  return { acknowledged, early };
}

async function startAndKill(
  start: (onSpawn: (child: ChildProcess) => void) => Promise<Daemon>,
  delay: number,
): Promise<[child: ChildProcess, served: boolean]> {
  let child: ChildProcess | undefined;
  let ended: Promise<unknown> | undefined;
  const outcome = start((spawned) => {
    child = spawned;
    ended = once(spawned, 'close');
    void setTimeout(delay).then(() => spawned.kill('SIGKILL'));
  }).then(
    () => true,
    () => false,
  );
  const served = await outcome;
  await ended;
  return [child!, served];
}

/** Revisions that one watcher was told have no gap, wherever they begin. */
export function findGapsFrom(first: number, rest: readonly { revision: number }[]): string[] {
  return rest.flatMap(({ revision }, index) =>
    revision === first + index + 1 ? [] : [`revision ${first + index + 1} was to be told, and ${revision} was`],
  );
}

/** What the daemon says of each VM's changes, and of its revision, is what its journal has. */
async function assertHistories({ url }: Daemon, { journal, revision }: Left, vms: readonly Vm[]): Promise<void> {
  for (const { id } of vms) {
    const answer = await fetch(`${url}/registry/vms/${id}/history?limit=1000`);
    assert.equal(Number(answer.headers.get(REVISION_HEADER)), revision);
    const { history } = (await answer.json()) as History;
    const expected = journal.filter((line) => line.id === id).slice(-1000);
    assert.deepEqual(
      history.map(({ revision, type }) => ({ revision, id, type })),
      expected.reverse(),
    );
  }
}
