/** The daemon is killed over and over while it is written to; after each kill all that it acknowledged must be there. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { VmList } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import type { Writer } from './crash.ts';
import { type Daemon, startDaemon } from './daemon.ts';
import type { Random } from './random.ts';

/** Acknowledgements after which the daemon is killed, at most: enough that the log is moved into the database at times. */
const MOST_ACKNOWLEDGED = 600;

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

/** @returns number of acknowledgements in all */
export async function crashOver(t: TestContext, kills: number, writers: readonly Writer[], random: Random) {
  let acknowledged = 0;
  let daemon = await startQuietDaemon(t);
  for (let kill = 0; kill < kills; kill++) {
    acknowledged += await writeAndKill(daemon, writers, 1 + random.below(MOST_ACKNOWLEDGED));
    daemon = await startQuietDaemon(t, daemon.home);
    const vms = await listAll(daemon);
    assert.deepEqual(findLosses(writers, vms), [], `after kill ${kill + 1} of ${kills}`);
    for (const writer of writers) writer.adopt(vms);
  }
  return acknowledged;
}
