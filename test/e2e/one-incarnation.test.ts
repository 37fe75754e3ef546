/** Agents of VMs with one incarnation, whatever happens to the VM or the registry: the real agent and the real daemon. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import {
  backUp,
  copyState,
  find,
  heardAfter,
  heardTwice,
  type RunningAgent,
  restart,
  startAgent,
} from '../helpers/agent/agent.ts';
import { type Daemon, startDaemon, tempDir } from '../helpers/daemon.ts';
import { freeze } from '../helpers/freeze.ts';
import { call } from '../helpers/http.ts';
import { readEvents } from '../helpers/stream.ts';
import { until } from '../helpers/until.ts';

const ROOT = { VERS_AUTH_TOKEN: 's3cret' };
/** Seconds of a lease, and the setting: long enough for an agent to send a few heartbeats on a busy machine. */
const LEASE = 3;
const SHORT_LEASE = ['--stale-after', `${LEASE}s`];

async function conflictsOf({ command }: Daemon): Promise<Conflict[]> {
  return JSON.parse((await command(['conflicts', '-o', 'json'])).stdout) as Conflict[];
}

/**
 * Starts an agent while the daemon is stopped, and with it its listening time. Otherwise the lease of the VM could expire before the
 * first request of the agent.
 */
async function startWithinLease(
  t: TestContext,
  { url, child }: Daemon,
  ...[args, more]: [args: readonly string[], more?: { home: string }]
): Promise<RunningAgent> {
  freeze(child);
  const agent = startAgent(t, url, args, more);
  await until('its start', () => /the id of this VM is/.test(agent.said()));
  child.kill('SIGCONT');
  return agent;
}

/** Removes the VM and waits until its agent has registered it again. */
async function removeUntilBack(daemon: Daemon): Promise<void> {
  const { registeredAt } = (await find(daemon))!;
  await daemon.command(['rm', 'vm-1', '--yes']);
  await until('the VM to be back', async () => ((await find(daemon))?.registeredAt ?? '') > registeredAt);
}

test('a VM that was removed and came back before a restore is accepted at once', async (t) => {
  const first = await startDaemon(t);
  const agent = startAgent(t, first.url);
  await heardTwice(first);
  await first.end();
  const restore = backUp(t, first);
  const second = await restart(t, first);
  await removeUntilBack(second);
  await heardTwice(second);
  await second.end();
  restore();
  const third = await restart(t, first);
  await heardTwice(third);
  assert.equal(agent.child.exitCode, null);
  assert.doesNotMatch(agent.said(), /another incarnation/);
  assert.deepEqual(await conflictsOf(third), []);
});

test('a VM that crashed and was recreated at another address is accepted when its lease has expired', async (t) => {
  const daemon = await startDaemon(t, { args: SHORT_LEASE });
  const crashed = startAgent(t, daemon.url, ['--address', '10.0.0.1']);
  await heardTwice(daemon);
  const events = await readEvents(t, daemon.url);
  await crashed.end('SIGKILL');
  const { lastSeen } = (await find(daemon))!;
  const recreated = await startWithinLease(t, daemon, ['--address', '10.0.0.2']);
  await until('the refusal', () => /has another incarnation \(10\.0\.0\.1/.test(recreated.said()));
  await events.seen('conflict');
  const conflict = events.told.flatMap(({ event }) => ('conflict' in event ? [event.conflict] : []))[0];
  assert.deepEqual([conflict?.state, conflict?.other.address], ['open', '10.0.0.2']);
  const { address, lastSeen: heardAt } = await heardAfter(daemon, lastSeen);
  assert.ok(Date.parse(heardAt) - Date.parse(lastSeen) >= LEASE * 1000, 'attempts are no signs of life');
  await until('the address', async () => (await find(daemon))?.address === '10.0.0.2');
  assert.ok(['10.0.0.1', '10.0.0.2'].includes(address));
  assert.equal(recreated.child.exitCode, null);
});

test('a VM that was rewound in place is accepted when its lease has expired', async (t) => {
  const daemon = await startDaemon(t, { args: SHORT_LEASE });
  const [home, snapshot] = [tempDir(t), tempDir(t)];
  const before = startAgent(t, daemon.url, [], { home });
  await heardTwice(daemon);
  copyState(home, snapshot);
  await heardTwice(daemon);
  await before.end('SIGKILL');
  const { lastSeen } = (await find(daemon))!;
  const rewound = await startWithinLease(t, daemon, [], { home: snapshot });
  await until('the refusal', () => /has another incarnation/.test(rewound.said()));
  await heardAfter(daemon, lastSeen);
  await heardTwice(daemon);
  assert.equal(rewound.child.exitCode, null);
});

for (const [what, removals] of [
  ['token is newer than the restored backup uses the token before it', 1],
  ['last two tokens are newer than the restored backup enrols again', 2],
] as const)
  test(`a VM whose ${what}`, async (t) => {
    const options = { env: ROOT, args: SHORT_LEASE };
    const first = await startDaemon(t, options);
    const image = (
      await first.command(['token', 'create', 'image', '--scope', 'enrol', '--role', 'worker'])
    ).stdout.trim();
    const home = tempDir(t);
    const agent = startAgent(t, first.url, [], { home, env: { VERS_AUTH_TOKEN: image } });
    await heardTwice(first);
    await first.end();
    const restore = backUp(t, first);
    const second = await restart(t, first, options);
    for (let times = 0; times < removals; times++) {
      await removeUntilBack(second);
      await heardTwice(second);
    }
    await second.end();
    restore();
    const third = await restart(t, first, options);
    if (removals > 1) await until('the refusal', () => /VM already registered/.test(agent.said()));
    const { lastSeen } = (await find(third))!;
    await heardAfter(third, lastSeen);
    await heardTwice(third);
    assert.equal(agent.child.exitCode, null);
    const file = join(home, 'state/vreg/token');
    const name = ['whoami', '--token-file', file, '-o', 'jsonpath=$.token.name'];
    assert.equal((await third.command(name)).stdout, 'image/vm-1\n');
  });

test('an agent with an invented token number does not evict the VM, and both are on record', async (t) => {
  const daemon = await startDaemon(t, { env: ROOT });
  const agent = startAgent(t, daemon.url, ['--address', '10.0.0.1', '--role', 'infra'], { env: ROOT });
  await heardTwice(daemon);
  const { stdout } = await daemon.command(['token', 'create', 'probe', '--scope', 'heartbeat']);
  const events = await readEvents(t, daemon.url, '/registry/events', { authorization: 'Bearer s3cret' });
  const send = (body: object) =>
    call(daemon.url, 'POST', '/registry/vms/vm-1/heartbeat', {
      body: { address: '10.0.0.6', incarnation: 'six', ...body },
      headers: { authorization: `Bearer ${stdout.trim()}` },
    });
  const invented = (number: number) => `99999999999999${number}.${'f'.repeat(32)}`;
  assert.equal((await send({ spend: invented(1), next: invented(2) })).status, 200);
  await events.seen('conflict', 2);
  const [conflict, ...others] = await conflictsOf(daemon);
  assert.deepEqual(others, []);
  assert.deepEqual([conflict?.holder.address, conflict?.other.address], ['10.0.0.1', '10.0.0.6']);
  const refused = await send({ spend: invented(2), next: invented(3) });
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [409, null]);
  assert.equal((await send({ next: invented(4), replace: true })).status, 403);
  await heardTwice(daemon);
  assert.equal(agent.child.exitCode, null);
  assert.doesNotMatch(agent.said(), /incarnation/);
});

test('an agent with --on-clone replace and a token without the scope write exits with 5 at its start', async (t) => {
  const daemon = await startDaemon(t, { env: ROOT });
  const tokens = new Map<string, string>();
  for (const scope of ['register', 'write']) {
    const { stdout } = await daemon.command(['token', 'create', scope, '--scope', scope]);
    tokens.set(scope, stdout.trim());
  }
  const start = (scope: string) =>
    startAgent(t, daemon.url, ['--on-clone', 'replace'], { env: { VERS_AUTH_TOKEN: tokens.get(scope) } });
  const lesser = start('register');
  assert.equal(await lesser.exited(), 5);
  assert.match(lesser.said(), /--on-clone replace requires a token with the scope write/);
  assert.equal(await find(daemon), undefined);
  start('write');
  await heardTwice(daemon);
});

test('each copy of a VM is on record with its address, and exits with 9 when the VM was heard again', async (t) => {
  const daemon = await startDaemon(t);
  const home = tempDir(t);
  const original = startAgent(t, daemon.url, ['--address', '10.0.0.1'], { home });
  await heardTwice(daemon);
  const homes = [2, 3, 4].map(() => {
    const copy = tempDir(t);
    copyState(home, copy);
    return copy;
  });
  await heardTwice(daemon);
  const copies = homes.map((copy, n) => startAgent(t, daemon.url, ['--address', `10.0.0.${n + 2}`], { home: copy }));
  assert.deepEqual(await Promise.all(copies.map((copy) => copy.exited())), [9, 9, 9]);
  const found = await conflictsOf(daemon);
  assert.deepEqual(found.map(({ other }) => other.address).sort(), ['10.0.0.2', '10.0.0.3', '10.0.0.4']);
  assert.equal(original.child.exitCode, null);
});

test('an agent that is stopped while it is refused leaves the VM running, and single heartbeats exit with 9', async (t) => {
  const daemon = await startDaemon(t);
  const [home, copy] = [tempDir(t), tempDir(t)];
  const original = startAgent(t, daemon.url, ['--address', '10.0.0.1'], { home });
  await heardTwice(daemon);
  copyState(home, copy);
  await heardTwice(daemon);
  await original.end('SIGKILL');
  const refused = startAgent(t, daemon.url, ['--address', '10.0.0.2', '--on-exit', 'deregister'], { home: copy });
  await until('the refusal', () => /has another incarnation/.test(refused.said()));
  const { code } = await refused.end();
  assert.equal(code, 0);
  assert.equal((await find(daemon))?.status, 'running');
  const state = join(copy, 'state/vreg');
  const once = () => daemon.command(['heartbeat', 'vm-1', '--state-dir', state, '--address', '10.0.0.2']);
  const undecided = await once();
  assert.deepEqual([undecided.code, undecided.stdout], [9, '']);
  startAgent(t, daemon.url, ['--address', '10.0.0.1'], { home });
  await heardTwice(daemon);
  const decided = await once();
  assert.equal(decided.code, 9);
  assert.match(decided.stderr, /is alive as another incarnation/);
});
