/** A disk that fails every few calls, in the kernel's place, under 16 writers. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { newWriters } from '../helpers/crash/crash.ts';
import { findFaults, findLosses, listAll, readLeft, startQuietDaemon } from '../helpers/crash/crash-run.ts';
import { breakDisk } from '../helpers/crash/strace.ts';
import { randomOf } from '../helpers/random.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

/** Each so many calls one fails: with 7, 11 and 13 it is another step of a commit each time, the sync among them. */
const EVERY = [7, 11, 13, 50];

for (const [error, status, code] of [
  ['EIO', 503, 'STORE_FAILED'],
  ['ENOSPC', 507, 'STORE_FULL'],
] as const) {
  test(
    `a disk that fails with ${error} now and then loses nothing that was acknowledged to 16 writers, and leaves no revision out`,
    unless('strace'),
    async (t) => {
      const random = randomOf(t);
      const daemon = await startQuietDaemon(t);
      const writers = newWriters(16, random);
      let [acknowledged, refused] = [0, 0];
      const stop = new AbortController();
      t.after(() => stop.abort());
      const onRefused = (was: number, body: { code: string }) => {
        assert.deepEqual([was, body.code], [status, code]);
        refused++;
      };
      const writing = Promise.all(
        writers.map((writer) => writer.outlast(daemon, stop.signal, () => acknowledged++, onRefused)),
      );
      writing.catch(() => {});
      const more = async (what: string, count: () => number) => {
        const before = count();
        await Promise.race([writing, until(what, () => count() > before + 100)]);
      };
      for (const every of EVERY) {
        const mend = await breakDisk(t, daemon, `${error}:when=${every}+${every}`);
        await more('refusals', () => refused);
        await mend();
        await more('acknowledgements', () => acknowledged);
      }
      stop.abort();
      await writing;
      assert.deepEqual(findLosses(writers, await listAll(daemon)), []);
      await daemon.end('SIGKILL');
      assert.deepEqual(findFaults(readLeft(t, daemon.dataDir), writers), []);
      t.diagnostic(`${acknowledged} changes were acknowledged, ${refused} refused`);
    },
  );
}
