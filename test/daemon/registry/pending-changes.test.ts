/** Pending changes: their visibility, their order, and the state after a failure. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

function setUp<S extends MemoryStore>(store: S) {
  const clock = new FakeClock();
  return { store, clock, registry: new Registry({ store, clock, staleAfter: 300_000 }, store.contents()) };
}

const full = () => new VregError('STORE_FULL', 'the disk is full');

test('only one of two racing registrations of an id succeeds', async () => {
  const { registry, store } = setUp(new GatedStore());
  const first = registry.register(aVm({ name: 'first' }));
  const second = registry.register(aVm({ name: 'second' }));
  await assert.rejects(second, { code: 'CONFLICT' });
  await store.release();
  assert.equal((await first).vm.name, 'first');
  assert.equal(registry.revision, 1);
});

test('a registration is not visible until it is durable', async () => {
  const { registry, store } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  assert.equal(registry.has('vm-1'), false);
  assert.throws(() => registry.heartbeat('vm-1'), { code: 'NOT_FOUND' });
  await store.release();
  await registered;
  assert.equal(registry.has('vm-1'), true);
});

test('a failed commit changes nothing, and the next change gets its revision', async () => {
  const { registry, store } = setUp(new MemoryStore());
  await registry.register(aVm({ id: 'a' }));
  const before = registry.list({}).map(({ json }) => json);
  store.failure = full();
  await assert.rejects(registry.register(aVm({ id: 'b' })), { code: 'STORE_FULL' });
  await assert.rejects(registry.update('a', { status: 'paused' }), { code: 'STORE_FULL' });
  await assert.rejects(registry.deregister('a'), { code: 'STORE_FULL' });
  assert.deepEqual(
    registry.list({}).map(({ json }) => json),
    before,
  );
  assert.equal(registry.revision, 1);
  store.failure = undefined;
  assert.equal((await registry.register(aVm({ id: 'b' }))).version.revision, 2);
  await registry.deregister('a');
  assert.equal(registry.revision, 3);
  assert.equal(store.revision, 3);
});

test('changes that were decided on a failing change fail with it', async () => {
  const { registry, store } = setUp(new GatedStore());
  const outcomes = Promise.allSettled([
    registry.register(aVm()),
    registry.update('vm-1', { name: 'two' }),
    registry.deregister('vm-1'),
    registry.register(aVm({ name: 'three' })),
  ]);
  store.fail(full());
  assert.deepEqual(
    (await outcomes).map(({ status }) => status),
    ['rejected', 'rejected', 'rejected', 'rejected'],
  );
  const again = registry.register(aVm({ name: 'four' }));
  await store.release();
  const { created, revision } = (await again).version;
  assert.deepEqual([created, revision], [1, 1]);
});

test('a refusal by a busy store does not affect pending changes', async () => {
  const { registry, store } = setUp(new GatedStore());
  const first = registry.register(aVm());
  store.refusal = new VregError('BUSY', 'the queue is full');
  await assert.rejects(registry.register(aVm({ id: 'vm-2' })), { code: 'BUSY' });
  store.refusal = undefined;
  await assert.rejects(registry.register(aVm()), { code: 'CONFLICT' }, 'the first is still pending');
  const third = registry.register(aVm({ id: 'vm-3' }));
  await store.release();
  assert.equal((await first).version.revision, 1);
  assert.equal((await third).version.revision, 2);
});

test('a removal that becomes durable does not hide a later pending change of the same id', async () => {
  const { registry, store } = setUp(new GatedStore());
  const all = [
    registry.register(aVm()),
    registry.deregister('vm-1'),
    registry.register(aVm()),
    registry.deregister('vm-1'),
  ];
  for (const last of [false, false, false, true]) {
    await assert.rejects(registry.update('vm-1', { name: 'ghost' }), { code: 'NOT_FOUND' });
    await store.release(1);
    await all[0];
    if (last) await Promise.all(all);
    await new Promise(setImmediate);
  }
  assert.equal(registry.has('vm-1'), false);
  assert.equal(registry.revision, 4);
});

test('a heartbeat during the commit of an update is not undone, and is saved', async () => {
  const { registry, store, clock } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  await store.release();
  await registered;
  clock.pass(1000);
  const updated = registry.update('vm-1', { name: 'two' });
  clock.pass(1000);
  const { lastSeen } = registry.heartbeat('vm-1');
  await registry.saveHeartbeats();
  await store.release();
  assert.equal((await updated).lastSeen, lastSeen);
  assert.equal(registry.get('vm-1').lastSeen, lastSeen);
  await registry.saveHeartbeats();
  assert.equal(store.vms.get('vm-1')?.lastSeen, clock.wall, 'the update carried an older sign of life to the store');
});
