/**
 * Kills the daemon again and again while clients write to it. After each kill, all acknowledged changes must be there. The
 * writers also retry while the daemon is dead, starts, or reads its log, so it starts under load.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { openDataDir, readHighWaterMark } from '../../../daemon/store/data-dir.ts';
import type { Contents } from '../../../daemon/store/store.ts';
import { StoreBackend } from '../../../daemon/store/worker.ts';
import { POSITION_HEADER, type VmList } from '../../../src/protocol/api.ts';
import type { History } from '../../../src/protocol/events.ts';
import { parsePosition } from '../../../src/protocol/position.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import { type Daemon, startDaemon, tempDir } from '../daemon.ts';
import { AS_VREG_CLIENT } from '../http.ts';
import { findGaps, type JournalLine, journalOf } from '../journal.ts';
import type { Random } from '../random.ts';
import { isChange, readEvents } from '../stream.ts';
import type { Writer } from './crash.ts';

/** The daemon is killed after at most so many acknowledgements: enough for some checkpoints. */
const MAX_ACKNOWLEDGED = 600;
/** One in so many kills comes while the daemon starts. */
const EARLY = 3;
/** Such a kill comes after at most so many milliseconds. A start takes some 250. */
const START = 300;

export const startQuietDaemon = (t: TestContext, home?: string): Promise<Daemon> =>
  startDaemon(t, { args: ['--log-level', 'warn'], ...(home === undefined ? {} : { home }) });

export async function listAll({ url }: Daemon): Promise<Vm[]> {
  const answer = (await (await fetch(`${url}/registry/vms`)).json()) as VmList;
  assert.equal(answer.count, answer.vms.length);
  return answer.vms;
}

/** Starts the writers, and kills the daemon after `limit` acknowledgements. @returns the number of acknowledgements */
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

/** Contents of a data dir, read from a copy, so that the next start finds the files unchanged. */
export interface Left {
  /** Newest registration first, as the daemon lists them. */
  vms: Vm[];
  revision: number;
  journal: JournalLine[];
  /** Revision of the high-water mark; 0 if there is none. */
  mark: number;
}

export function readLeft(t: TestContext, dataDir: string): Left {
  const root = tempDir(t);
  // Two copies, because a store that was opened in this process stays locked until it ends.
  const [opened, read] = ['opened', 'read'].map((name) => {
    const dir = join(root, name);
    cpSync(dataDir, dir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    return openDataDir(dir);
  });
  const service = new StoreBackend(opened!);
  const mark = readHighWaterMark(read!)?.revision ?? 0;
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

/** @returns all contradictions between the contents of a data dir and what the writers know */
export function findFaults({ vms, revision, journal, mark }: Left, writers: readonly Writer[]): string[] {
  return [
    ...findLosses(writers, vms),
    ...findGaps(journal, revision),
    ...writers.flatMap((writer) => writer.findUnjournaled(journal)),
    ...(mark > revision ? [`the mark is at ${mark}, but the database is at ${revision}`] : []),
  ];
}

/** Subscribes to the events of a daemon. @returns a function that returns the changes received so far */
async function watchRevisions(t: TestContext, { url }: Daemon): Promise<() => readonly { revision: number }[]> {
  const { told } = await readEvents(t, url);
  return () => told.map(({ event }) => event).filter(isChange);
}

/** @returns the number of acknowledgements, and of kills that came before the daemon served requests */
export async function crashOver(t: TestContext, kills: number, writers: readonly Writer[], random: Random) {
  const home = tempDir(t);
  const dataDir = join(home, 'data');
  const socketPath = join(home, 'vreg.sock');
  let acknowledged = 0;
  let early = 0;
  let target: { count: number; reached(): void } | undefined;
  const onAcknowledged = () => {
    if (++acknowledged === target?.count) target.reached();
  };
  const stop = new AbortController();
  t.after(() => stop.abort());
  const writing = Promise.all(
    writers.map((writer) => writer.runAcrossRestarts({ socketPath }, stop.signal, onAcknowledged)),
  );
  // A writer that finds a loss ends the test at once instead of after the last kill.
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
        new Promise<void>((reached) => {
          target = { count: acknowledged + 1 + random.below(MAX_ACKNOWLEDGED), reached };
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

/** @returns gaps between the revisions that a subscriber received. They may begin anywhere. */
export function findGapsFrom(first: number, rest: readonly { revision: number }[]): string[] {
  return rest.flatMap(({ revision }, index) =>
    revision === first + index + 1 ? [] : [`revision ${first + index + 1} was expected, and ${revision} was received`],
  );
}

/** Asserts that the daemon returns the history and the revision that are in its journal. */
async function assertHistories({ url }: Daemon, { journal, revision }: Left, vms: readonly Vm[]): Promise<void> {
  for (const { id } of vms) {
    const answer = await fetch(`${url}/registry/vms/${id}/history?limit=1000`, { headers: AS_VREG_CLIENT });
    assert.equal(parsePosition(answer.headers.get(POSITION_HEADER)!)?.revision, revision);
    const { history } = (await answer.json()) as History;
    const expected = journal.filter((line) => line.id === id).slice(-1000);
    assert.deepEqual(
      history.map(({ revision, type }) => ({ revision, id, type })),
      expected.reverse(),
    );
  }
}
