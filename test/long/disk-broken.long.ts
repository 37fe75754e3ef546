/** Makes every few system calls on the disk fail, while 16 writers write. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import { newWriters } from '../helpers/crash/crash.ts';
import { findFaults, findLosses, listAll, readLeft, startQuietDaemon } from '../helpers/crash/crash-run.ts';
import { breakDisk } from '../helpers/crash/strace.ts';
import { randomOf } from '../helpers/random.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

/** One in so many calls fails. With 7, 11 and 13 a different step of a commit fails each time, the sync included. */
const EVERY = [7, 11, 13, 50];

/** Refusals by error. SQLite reports each failed sync as an I/O error, without its cause. */
const REFUSALS = { EIO: ['503 STORE_FAILED'], ENOSPC: ['507 STORE_FULL', '503 STORE_FAILED'] };

for (const [error, expected] of Object.entries(REFUSALS)) {
  test(
    `a disk that fails with ${error} now and then loses no change acknowledged to 16 writers, and no revision is missing`,
    unless('strace'),
    async (t) => {
      const random = randomOf(t);
      const daemon = await startQuietDaemon(t);
      const writers = newWriters(16, random);
      let [acknowledged, refused] = [0, 0];
      const stop = new AbortController();
      t.after(() => stop.abort());
      const onRefused = (status: number, { code, error: message }: ErrorBody) => {
        assert.ok(expected.includes(`${status} ${code}`), `${status} ${code}: ${message}`);
        refused++;
      };
      const writing = Promise.all(
        writers.map((writer) => writer.runAcrossRestarts(daemon, stop.signal, () => acknowledged++, onRefused)),
      );
      writing.catch(() => {});
      const more = async (what: string, count: () => number) => {
        const before = count();
        await Promise.race([writing, until(what, () => count() > before + 100)]);
      };
      for (const every of EVERY) {
        const repair = await breakDisk(t, daemon, `${error}:when=${every}+${every}`);
        await more('refusals', () => refused);
        await repair();
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
