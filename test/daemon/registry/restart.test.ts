/** Leases across restarts of the registry: suspect VMs, another lease, and a kill before the next save. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { warmingOf } from '../../../daemon/registry/explain.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

const LEASE = 300_000;
const FLEET = 10;

function setUp() {
  const store = new MemoryStore();
  const clock = new FakeClock();
  const open = (staleAfter = LEASE) => new Registry({ store, clock, staleAfter, massLoss: 0.5 }, store.contents());
  /** Starts again with what is durable. */
  const restart = (staleAfter?: number) => {
    clock.heard = store.listened;
    clock.miss(60_000);
    return open(staleAfter);
  };
  return { store, clock, open, restart };
}

type SetUp = ReturnType<typeof setUp>;

/** A registry whose VMs have all become suspect one millisecond ago. */
async function massLoss({ open, clock }: SetUp): Promise<Registry> {
  const registry = open();
  for (let n = 0; n < FLEET; n++) await registry.register(aVm({ id: `vm-${n}` }));
  clock.pass(LEASE + 1);
  registry.sweep();
  return registry;
}

const liveness = (registry: Registry, id = 'vm-0') => registry.livenessOf(registry.get(id));

test('suspect VMs and their remaining time survive a restart', async () => {
  const vms = setUp();
  const { clock } = vms;
  const registry = await massLoss(vms);
  clock.pass(100_000);
  await registry.saveHeartbeats();
  const again = vms.restart();
  assert.equal(again.discover('worker').length, FLEET);
  assert.equal(liveness(again), 'suspect');
  const warming = () => warmingOf(again.discover('worker'), clock, LEASE);
  assert.deepEqual(warming(), { seconds: 200, suspects: FLEET });
  clock.pass(199_999);
  assert.equal(liveness(again), 'suspect');
  clock.pass(1);
  assert.equal(liveness(again), 'stale');
});

test('a mass loss that is noticed by the last save before a kill survives it', async () => {
  const vms = setUp();
  const registry = vms.open();
  for (let n = 0; n < FLEET; n++) await registry.register(aVm({ id: `vm-${n}` }));
  vms.clock.pass(LEASE + 1);
  await registry.saveHeartbeats();
  assert.equal(liveness(vms.restart()), 'suspect');
});

test('a lease that expired after the last save is decided after the restart, even if a change saved a later time', async () => {
  const vms = setUp();
  const registry = vms.open();
  for (let n = 0; n < FLEET; n++) await registry.register(aVm({ id: `vm-${n}` }));
  vms.clock.pass(LEASE - 100);
  await registry.saveHeartbeats();
  vms.clock.pass(101);
  await registry.register(aVm({ id: 'late' }));
  assert.equal(liveness(vms.restart()), 'suspect');
});

test('a suspect VM that was heard before a restart is live, and its record is removed', async () => {
  const vms = setUp();
  const registry = await massLoss(vms);
  await registry.saveHeartbeats();
  registry.heartbeat('vm-0');
  await registry.update('vm-1', { status: 'running' });
  await registry.deregister('vm-2');
  await registry.saveHeartbeats();
  const again = vms.restart();
  assert.deepEqual(
    ['vm-0', 'vm-1', 'vm-3'].map((id) => liveness(again, id)),
    ['live', 'live', 'suspect'],
  );
  for (const id of ['vm-0', 'vm-1', 'vm-2']) assert.equal(vms.store.records.has(`lease ${id}`), false, id);
});

test('a suspect VM that was removed and registered again is not suspect after a kill', async () => {
  const vms = setUp();
  const registry = await massLoss(vms);
  await registry.saveHeartbeats();
  await registry.deregister('vm-0');
  await registry.register(aVm({ id: 'vm-0' }));
  const again = vms.restart();
  assert.equal(liveness(again), 'live');
  await again.saveHeartbeats();
  assert.equal(vms.store.records.has('lease vm-0'), false);
});

test('a VM that was stale before a restart is neither suspect nor reported again', async () => {
  const vms = setUp();
  const registry = await massLoss(vms);
  vms.clock.pass(LEASE + 2000);
  await registry.saveHeartbeats();
  const again = vms.restart();
  const events: string[] = [];
  again.events.subscribe({ event: ({ type }) => void events.push(type) });
  vms.clock.pass(10);
  assert.deepEqual([liveness(again), again.discover('worker').length, events], ['stale', 0, []]);
});

test('a restart with a shorter lease starts a full lease for VMs that were live, and for no others', async () => {
  const vms = setUp();
  const { clock } = vms;
  const registry = vms.open();
  await registry.register(aVm({ id: 'stale' }));
  clock.pass(LEASE);
  await registry.register(aVm({ id: 'live' }));
  clock.pass(100_000);
  const { lastSeen } = registry.get('live');
  await registry.saveHeartbeats();
  const shorter = vms.restart(60_000);
  assert.deepEqual([liveness(shorter, 'live'), liveness(shorter, 'stale')], ['live', 'stale']);
  assert.equal(shorter.get('live').lastSeen, lastSeen);
  assert.ok(warmingOf(shorter.discover('worker'), clock, 60_000), 'the VM was not heard since the restart');
  clock.pass(60_000);
  assert.equal(liveness(shorter, 'live'), 'live');
  clock.pass(1);
  assert.equal(liveness(shorter, 'live'), 'stale');
});

test('further restarts continue the lease that a shorter one started, also after a kill before the first save', async () => {
  const vms = setUp();
  const { clock } = vms;
  const registry = vms.open();
  await registry.register(aVm({ id: 'live' }));
  clock.pass(100_000);
  await registry.saveHeartbeats();
  vms.restart(60_000);
  const second = vms.restart(60_000);
  clock.pass(40_000);
  await second.saveHeartbeats();
  const third = vms.restart(60_000);
  assert.equal(liveness(third, 'live'), 'live');
  clock.pass(20_001);
  assert.equal(liveness(third, 'live'), 'stale');
});

test('after a restart with a shorter lease, another incarnation waits for a full lease of silence', async () => {
  const vms = setUp();
  const registry = vms.open();
  await registry.register(aVm({ id: 'a' }));
  const token = (number: number, digit = 'a') => `${number}.${digit.repeat(32)}`;
  const holder = { incarnation: 'one', address: '10.0.0.1' };
  const clone = { incarnation: 'two', address: '10.0.0.2', spend: token(1), next: token(2, 'b') };
  registry.heartbeat('a', { ...holder, next: token(1) });
  registry.heartbeat('a', { ...holder, spend: token(1), next: token(2) });
  vms.clock.pass(40_000);
  await registry.saveHeartbeats();
  const shorter = vms.restart(30_000);
  await shorter.saveHeartbeats();
  const again = vms.restart(30_000);
  vms.clock.pass(1000);
  for (const each of [shorter, again]) {
    const successor = { ...clone, spend: token(2), next: token(3, 'c') };
    for (const refused of [clone, successor])
      assert.throws(() => each.heartbeat('a', refused), { code: 'IDENTITY_CONFLICT' });
  }
  again.heartbeat('a', { ...holder, spend: token(2), next: token(3) });
});

test('a registry that is paused again and again stores at most 100 pauses, and forgets no doubt', async () => {
  const { clock, store, open } = setUp();
  const registry = open();
  await registry.register(aVm({ id: 'a' }));
  for (let n = 0; n < 150; n++) {
    clock.miss(2000);
    clock.pass(100);
    if (n === 0) registry.heartbeat('a');
    clock.pass(900);
    registry.sweep();
  }
  assert.deepEqual(registry.discover('worker', { strict: true }), []);
  await registry.saveHeartbeats();
  const { pauses } = JSON.parse(store.records.get('lease ')!.body) as { pauses: unknown[] };
  assert.equal(pauses.length, 100);
});

test('a VM in doubt stays in doubt when a restart with a shorter lease renews its lease', async () => {
  const vms = setUp();
  const registry = vms.open();
  for (const id of ['a', 'b']) await registry.register(aVm({ id }));
  vms.clock.pass(1000);
  vms.clock.miss(10_000);
  vms.clock.pass(100);
  registry.heartbeat('a');
  vms.clock.pass(2000);
  registry.heartbeat('b');
  await registry.saveHeartbeats();
  vms.clock.gap = undefined;
  const strict = (each: Registry) => each.discover('worker', { strict: true }).map(({ vm }) => vm.id);
  const shorter = vms.open(30_000);
  assert.deepEqual(strict(shorter), ['b']);
  await shorter.saveHeartbeats();
  for (const lease of [30_000, 20_000]) {
    const again = vms.open(lease);
    assert.deepEqual(strict(again), ['b'], String(lease));
    vms.clock.pass(1);
    again.heartbeat('a');
    assert.deepEqual(strict(again).toSorted(), ['a', 'b']);
  }
});

test('a shorter lease limits the remaining time of suspect VMs, and a longer one changes it only if it is more than doubled', async () => {
  for (const [lease, remaining] of [
    [60_000, 60_000],
    [600_000, 200_000],
    // From the last sign of life, which is LEASE + 100_001 ms ago.
    [900_000, 500_000],
  ] as const) {
    const vms = setUp();
    const registry = await massLoss(vms);
    vms.clock.pass(100_000);
    await registry.saveHeartbeats();
    const again = vms.restart(lease);
    assert.equal(liveness(again), 'suspect', String(lease));
    vms.clock.pass(remaining - 1);
    assert.equal(liveness(again), 'suspect', String(lease));
    vms.clock.pass(2);
    assert.equal(liveness(again), 'stale', String(lease));
  }
});

test('a VM whose last heartbeat may have waited during a pause stays in doubt across a restart', async () => {
  const vms = setUp();
  const { clock } = vms;
  const registry = vms.open();
  await registry.register(aVm({ id: 'a' }));
  clock.pass(1000);
  clock.miss(10_000);
  clock.pass(400);
  registry.heartbeat('a');
  await registry.saveHeartbeats();
  const again = vms.restart();
  clock.pass(1000);
  assert.deepEqual(again.discover('worker', { strict: true }), []);
  assert.equal(again.discover('worker').length, 1);
  again.heartbeat('a');
  assert.equal(again.discover('worker', { strict: true }).length, 1);
});
