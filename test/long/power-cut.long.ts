/** Cuts the power at random moments: all changes acknowledged before are there. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { checkDatabase } from '../../daemon/store/check.ts';
import { type HighWaterMark, openDataDir } from '../../daemon/store/data-dir.ts';
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
/** Acknowledgements to record: enough for some checkpoints. */
const ACKNOWLEDGED = 1500;
const CUTS = 150;
const CONTROL_CUTS = 10;

interface Life {
  base: string;
  operations: Operation[];
  writers: readonly Writer[];
  /** Acknowledgements: the time in seconds since the epoch, and the revision of the registry. */
  known: { at: number; revision: number }[];
}

/** Sends heartbeats of an agent and its clone, and clears the conflict each time. This saves records between the changes. */
async function causeConflicts({ url }: Daemon, stop: AbortSignal): Promise<void> {
  const token = (number: number, digit: string) => `${number}.${digit.repeat(32)}`;
  const heartbeat = async (body: object) =>
    (await call(url, 'POST', '/registry/vms/clashing/heartbeat', { body })).status;
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'clashing' }) });
  await heartbeat({ next: token(1, 'a') });
  for (let n = 1; !stop.aborted; n++) {
    assert.equal(await heartbeat({ spend: token(n, 'a'), next: token(n + 1, 'a') }), 200);
    assert.equal(await heartbeat({ spend: token(n, 'a'), next: token(n + 1, 'b') }), 409);
    assert.deepEqual((await call(url, 'DELETE', '/registry/conflicts')).body, { cleared: 1 });
  }
}

/** Runs 8 writers, and records what the daemon writes to the disk. */
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
    causeConflicts(daemon, stop.signal),
    ...writers.map((writer) =>
      writer.runAcrossRestarts(daemon, stop.signal, () => {
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

/** @returns what is wrong with the files after a power cut, before which revision `least` was acknowledged */
async function findFaultsAfter(t: TestContext, dataDir: string, { writers }: Life, least: number): Promise<string[]> {
  try {
    await checkDatabase(openDataDir(dataDir));
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

/** Replays a recording with power cuts at random moments. @returns what is wrong after each cut */
async function cutOften(t: TestContext, life: Life, cuts: number, random: Random, syncs: boolean): Promise<string[][]> {
  // Half of the cuts are during a checkpoint, which takes a small part of the time.
  const all = [...life.operations.keys()];
  const checkpoints = all.filter((index) => life.operations[index]!.file === 'registry.db');
  const any = (from: readonly number[]) => from[random.below(from.length)]!;
  const moments = Array.from({ length: cuts }, (_, n) => any(n % 2 ? all : checkpoints)).sort((a, b) => a - b);
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
  `after each of ${CUTS} power cuts all acknowledged changes are there; on a disk that ignores syncs they are not`,
  unless('strace'),
  async (t) => {
    const random = randomOf(t);
    const life = await record(t, random);
    const writes = (file: string) =>
      life.operations.filter((each) => each.file === file && each.do.kind === 'write').length;
    const counts = FILES.map(writes);
    t.diagnostic(`writes to ${FILES.join(', ')}: ${counts.join(', ')}; ${life.known.length} acknowledgements`);
    for (const count of counts) assert.ok(count > 0, 'there was a checkpoint, and the mark advanced');
    const marks = life.operations.flatMap(({ file, do: done }) =>
      file === 'registry.mark' && done.kind === 'write' ? [JSON.parse(String(done.bytes)) as HighWaterMark] : [],
    );
    const saves = marks.at(-1)!.saves - marks[0]!.saves;
    t.diagnostic(`${saves} saves of records`);
    assert.ok(saves > 20, `${saves} saves of records`);
    for (const [index, faults] of (await cutOften(t, life, CUTS, random, true)).entries())
      assert.deepEqual(faults, [], `after cut ${index + 1}`);
    const control = await cutOften(t, life, CONTROL_CUTS, random, false);
    assert.ok(control.filter((faults) => faults.length > 0).length > CONTROL_CUTS / 2, 'the checker finds losses');
  },
);
