/** A daemon with too few file descriptors exits with an error or serves requests. It never hangs. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type Daemon, startDaemon, tempDir } from '../helpers/daemon.ts';
import { unless } from '../helpers/tools.ts';

/** From the number with which Node itself barely starts to one that suffices, so that each step of a start is the first to fail. */
const [FEWEST, ENOUGH] = [20, 64];

test('with each number of file descriptors a start succeeds or fails with a hint', unless('prlimit'), async (t) => {
  const home = tempDir(t);
  let served = 0;
  for (let limit = FEWEST; limit <= ENOUGH; limit++) {
    let daemon: Daemon;
    try {
      daemon = await startDaemon(t, { home, through: ['prlimit', `--nofile=${limit}:${limit}`] });
    } catch (error) {
      const { message } = error as Error;
      assert.match(message, /^the daemon ended with 1: (.*\n)*vreg: .*\n(.*\n)*hint: /, String(limit));
      continue;
    }
    served++;
    assert.deepEqual(await daemon.end('SIGTERM'), { code: 0, signal: null }, String(limit));
  }
  t.diagnostic(`${served} of ${ENOUGH - FEWEST + 1} served`);
  assert.ok(served > 0);
  const daemon = await startDaemon(t, { home });
  assert.equal((await daemon.vreg(['ls'])).code, 0);
});
