/**
 * An agent that runs for weeks: heartbeats over real connections, on a clock that the test advances. Set VREG_AGENT_HEARTBEATS to
 * change their number.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Agent } from '../../daemon/agent/agent.ts';
import { Identity, type IdentityState, type IdentityStore } from '../../daemon/agent/identity.ts';
import { RegistryClient } from '../../src/client.ts';
import { aLife } from '../helpers/agent/agent-life.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { openUndici } from '../helpers/transports.ts';
import { until } from '../helpers/until.ts';

/** Heartbeats until all code has run and all buffers have been allocated. */
const WARM_UP = 2000;
const HEARTBEATS = Number(process.env.VREG_AGENT_HEARTBEATS ?? 60_000);
/** Heartbeats of an agent whose identity is in a file: each one waits for the disk several times. */
const FILED = 1000;
/** Bytes by which the heap may differ: one word per heartbeat. */
const TOLERANCE = 8 * HEARTBEATS;
/** Milliseconds. The timer of a request exists for this long. */
const TIMEOUT = 2000;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function usedHeap(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

/** Number of open descriptors of this process. */
function countDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

const ON_LINUX = { skip: existsSync('/proc/self/fd') ? false : 'needs /proc to count descriptors' };

function memoryStore(): IdentityStore {
  const states = new Map<string, IdentityState>();
  return { read: (vm) => states.get(vm) ?? { vm }, write: (state) => void states.set(state.vm, state) };
}

/** Starts an agent with a real registry. @returns a function that resolves after a number of further heartbeats */
async function startedAgent(t: TestContext, where: string | IdentityStore): Promise<(count: number) => Promise<void>> {
  const daemon = await startDaemon(t);
  const client = new RegistryClient({ url: daemon.url, openTransport: openUndici, timeout: TIMEOUT });
  let now = Date.now();
  const { options } = aLife({ identity: Identity.open(where, 'vm-1', { now: () => now }) });
  let left = 0;
  let reached = () => {};
  let resume = () => {};
  const agent = new Agent({
    ...options,
    client,
    ticks: () => now,
    async sleep(ms) {
      now += ms;
      await (left > 0 ? setImmediate() : new Promise<void>((resolve) => (resume = resolve)));
    },
    onHeartbeat() {
      if (--left === 0) reached();
    },
  });
  const stop = new AbortController();
  const running = agent.run(stop.signal);
  t.after(async () => {
    stop.abort();
    resume();
    client.close();
    await running;
  });
  return (count) =>
    new Promise((resolve, reject) => {
      running.catch(reject);
      left = count;
      reached = resolve;
      resume();
    });
}

test(`${HEARTBEATS} heartbeats leave the heap and the descriptors of an agent as they were`, ON_LINUX, async (t) => {
  const heartbeats = await startedAgent(t, memoryStore());
  await heartbeats(WARM_UP);
  const heap = usedHeap();
  await heartbeats(HEARTBEATS / 2);
  // Counted here, because a connection of the warm-up may be closed later on a busy machine.
  const descriptors = countDescriptors();
  await heartbeats(HEARTBEATS / 2);
  const grown = () => usedHeap() - heap;
  await until('the timers of the last requests to end', () => grown() < TOLERANCE);
  assert.equal(countDescriptors(), descriptors);
  t.diagnostic(`the heap of ${heap} bytes grew by ${grown()}`);
});

test('heartbeats of an agent with a state file leave its descriptors as they were', ON_LINUX, async (t) => {
  const heartbeats = await startedAgent(t, tempDir(t));
  await heartbeats(FILED);
  const descriptors = countDescriptors();
  await heartbeats(FILED);
  assert.equal(countDescriptors(), descriptors);
});
