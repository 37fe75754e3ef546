/** Takes backups while 16 writers write, restores each with the real command, and serves it with a daemon. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { parsePosition } from '../../src/protocol/position.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { type Acknowledged, newWriters } from '../helpers/crash/crash.ts';
import { listAll, readLeft, startQuietDaemon } from '../helpers/crash/crash-run.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { findGaps, type JournalLine } from '../helpers/journal.ts';
import { randomOf } from '../helpers/random.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const BACKUPS = 8;
/** Acknowledgements between two backups: so many that the last backups come after a checkpoint. */
const BETWEEN = 150;

/** @returns the VMs as acknowledged up to the last line, newest registration first. @throws on an unacknowledged line */
function replay(journal: readonly JournalLine[], acknowledged: ReadonlyMap<number, Acknowledged>): Vm[] {
  const vms = new Map<string, Vm>();
  for (const { revision, id, type } of journal) {
    if (type === 'deregistered') vms.delete(id);
    else {
      const vm = acknowledged.get(revision)?.vm;
      assert.equal(vm?.id, id, `revision ${revision} was acknowledged`);
      vms.set(id, vm!);
    }
  }
  return [...vms.values()].reverse();
}

test(`each of ${BACKUPS} backups under 16 writers restores exactly the changes up to one revision`, async (t) => {
  const random = randomOf(t);
  const daemon = await startQuietDaemon(t);
  const writers = newWriters(16, random);
  let count = 0;
  const stop = new AbortController();
  t.after(() => stop.abort());
  const writing = Promise.all(writers.map((writer) => writer.runAcrossRestarts(daemon, stop.signal, () => count++)));
  writing.catch(() => {});
  const backups: { file: string; atLeast: number }[] = [];
  for (let n = 1; n <= BACKUPS; n++) {
    await Promise.race([writing, until('more acknowledgements', () => count >= n * BETWEEN)]);
    const atLeast = Math.max(...writers.flatMap((writer) => writer.acknowledged.map(({ revision }) => revision)));
    const answer = await fetch(`${daemon.url}/registry/backup`);
    assert.equal(answer.status, 200);
    const file = join(daemon.home, `backup-${n}.db`);
    writeFileSync(file, Buffer.from(await answer.arrayBuffer()));
    backups.push({ file, atLeast });
  }
  stop.abort();
  await writing;
  const acknowledged = new Map(
    writers.flatMap((writer) => writer.acknowledged.map((change) => [change.revision, change] as const)),
  );
  await daemon.end('SIGTERM');

  for (const { file, atLeast } of backups) {
    const home = tempDir(t);
    const words = [...ENTRY, 'daemon', 'restore', file, '--yes', '--data-dir', join(home, 'data')];
    const { code, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
    assert.equal(code, 0, stderr);
    const { revision, journal } = readLeft(t, join(home, 'data'));
    assert.ok(revision >= atLeast, `${file} ends at ${revision}, but ${atLeast} was acknowledged before the request`);
    assert.deepEqual(findGaps(journal, revision), []);
    const restored = await startQuietDaemon(t, home);
    assert.deepEqual(await listAll(restored), replay(journal, acknowledged));
    const next = await call(restored.url, 'POST', '/registry/vms', { body: aVm({ id: 'next' }) });
    assert.equal(parsePosition(next.headers.get('etag')!.slice(1, -1))?.revision, revision + 1);
    await restored.end('SIGTERM');
  }
  t.diagnostic(`${count} changes were acknowledged`);
});
