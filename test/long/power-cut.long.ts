/** The power goes at any moment: what was acknowledged until then is there, as the disk had it. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { check } from '../../daemon/store/check.ts';
import { type Mark, openDataDir } from '../../daemon/store/data-dir.ts';
import { newWriters, type Writer } from '../helpers/crash/crash.ts';
import { readLeft, startQuietDaemon } from '../helpers/crash/crash-run.ts';
import { type Operation, PlayedDisk, readRecord } from '../helpers/crash/power-cut.ts';
import { recordDisk } from '../helpers/crash/strace.ts';
import { type Daemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { findGaps } from '../helpers/journal.ts';
import { type Random, randomOf } from '../helpers/random.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const FILES = ['registry.db', 'registry.db-wal', 'registry.mark'];
const MODES = ['lost', 'partly', 'torn'] as const;
/** Acknowledgements that are recorded: the log is moved into the database at times. */
const ACKNOWLEDGED = 1500;
const CUTS = 150;
const CONTROL_CUTS = 10;

interface Life {
  base: string;
  operations: Operation[];
  writers: readonly Writer[];
  /** When (seconds since the epoch) the registry was known to have got as far as that revision. */
  known: { at: number; revision: number }[];
}

/** Beats of an agent and of its copy, whose conflict is cleared at once: saves of records, among the changes. */
async function clash({ url }: Daemon, stop: AbortSignal): Promise<void> {
  const token = (number: number, digit: string) => `${number}.${digit.repeat(32)}`;
  const beat = async (body: object) => (await call(url, 'POST', '/registry/vms/clashing/heartbeat', { body })).status;
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'clashing' }) });
  await beat({ next: token(1, 'a') });
  for (let n = 1; !stop.aborted; n++) {
    assert.equal(await beat({ spend: token(n, 'a'), next: token(n + 1, 'a') }), 200);
    assert.equal(await beat({ spend: token(n, 'a'), next: token(n + 1, 'b') }), 409);
    assert.deepEqual((await call(url, 'DELETE', '/registry/conflicts')).body, { cleared: 1 });
  }
}

/** Lets 8 writers write, and writes down what that wrote to the disk. */
async function record(t: TestContext, random: Random): Promise<Life> {
  const daemon = await startQuietDaemon(t);
  const [base, file] = [join(daemon.home, 'base'), join(daemon.home, 'record')];
  const end = await recordDisk(t, daemon, file);
  cpSync(daemon.dataDir, base, { recursive: true });
  const writers = newWriters(8, random);
  const known: Life['known'] = [];
  const stop = new AbortController();
  t.after(() => stop.abort());
  const writing = Promise.all([
    clash(daemon, stop.signal),
    ...writers.map((writer) =>
      writer.outlast(daemon, stop.signal, () => {
        const at = (performance.timeOrigin + performance.now()) / 1000;
        known.push({ at, revision: writer.durable });
      }),
    ),
  ]);
  writing.catch(() => {});
  await Promise.race([writing, until('all acknowledgements', () => known.length >= ACKNOWLEDGED, 60_000)]);
  stop.abort();
  await writing;
  await end();
  await daemon.end('SIGKILL');
  return { base, operations: await readRecord(file), writers, known };
}

/** What is wrong with the files after a cut, at which the registry was known to have got as far as `least`. */
async function findFaultsAfter(t: TestContext, dataDir: string, { writers }: Life, least: number): Promise<string[]> {
  try {
    await check(openDataDir(dataDir));
  } catch (error) {
    return [(error as Error).message];
  }
  const { vms, revision, journal } = readLeft(t, dataDir);
  const faults = findGaps(journal, revision);
  if (revision < least) faults.push(`the registry ends at ${revision}, but ${least} was acknowledged`);
  const acknowledged = new Map(
    writers.flatMap((writer) => writer.acknowledged.map((change) => [change.revision, change])),
  );
  for (const vm of vms) {
    const last = journal.findLast(({ id }) => id === vm.id)!;
    const then = acknowledged.get(last.revision);
    if (then && JSON.stringify(then.vm) !== JSON.stringify(vm)) faults.push(`${vm.id} is not as it was acknowledged`);
  }
  return faults;
}

/** Plays a life, with cuts at random moments. @returns what was wrong after each of them */
async function cutOften(t: TestContext, life: Life, cuts: number, random: Random, syncs: boolean): Promise<string[][]> {
  // Half of them while the log is moved into the database, which takes a small part of the time.
  const all = [...life.operations.keys()];
  const moves = all.filter((index) => life.operations[index]!.file === 'registry.db');
  const any = (from: readonly number[]) => from[random.below(from.length)]!;
  const moments = Array.from({ length: cuts }, (_, n) => any(n % 2 ? all : moves)).sort((a, b) => a - b);
  const disk = new PlayedDisk(life.base, FILES, syncs);
  const found: string[][] = [];
  const root = tempDir(t);
  let played = 0;
  for (const [index, moment] of moments.entries()) {
    while (played < moment) disk.play(life.operations[played++]!);
    const { at } = life.operations[moment]!;
    const least = life.known.reduce((most, { at: then, revision }) => (then < at ? Math.max(most, revision) : most), 0);
    const dataDir = join(root, String(index));
    mkdirSync(dataDir);
    disk.cut(dataDir, MODES[index % MODES.length]!, random);
    found.push(await findFaultsAfter(t, dataDir, life, least));
    rmSync(dataDir, { recursive: true });
  }
  return found;
}

test(
  `after each of ${CUTS} power cuts all that was acknowledged is there; on a disk that does not sync, it is not`,
  unless('strace'),
  async (t) => {
    const random = randomOf(t);
    const life = await record(t, random);
    const writes = (file: string) =>
      life.operations.filter((each) => each.file === file && each.do.kind === 'write').length;
    const counts = FILES.map(writes);
    t.diagnostic(`writes to ${FILES.join(', ')}: ${counts.join(', ')}; ${life.known.length} acknowledgements`);
    for (const count of counts) assert.ok(count > 0, 'the log was moved into the database, and the mark went on');
    const marks = life.operations.flatMap(({ file, do: done }) =>
      file === 'registry.mark' && done.kind === 'write' ? [JSON.parse(String(done.bytes)) as Mark] : [],
    );
    const saves = marks.at(-1)!.saves - marks[0]!.saves;
    t.diagnostic(`${saves} saves of records`);
    assert.ok(saves > 20, `${saves} saves of records`);
    for (const [index, faults] of (await cutOften(t, life, CUTS, random, true)).entries())
      assert.deepEqual(faults, [], `after cut ${index + 1}`);
    const control = await cutOften(t, life, CONTROL_CUTS, random, false);
    assert.ok(control.filter((faults) => faults.length > 0).length > CONTROL_CUTS / 2, 'the checker sees a loss');
  },
);
