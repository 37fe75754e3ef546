import assert from 'node:assert/strict';
import test from 'node:test';
import { HeartbeatBuffer } from '../../../daemon/registry/heartbeat-buffer.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

function setUp<S extends MemoryStore>(store: S) {
  const clock = new FakeClock();
  return { store, clock, registry: new Registry({ store, clock, staleAfter: 300_000 }, store.contents()) };
}

test('heartbeats that could not be saved are saved later, even after an update in between', async () => {
  const { registry, store, clock } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  await store.release();
  await registered;
  const updated = registry.update('vm-1', { name: 'two' });
  clock.pass(1000);
  registry.heartbeat('vm-1');
  store.heartbeatsFailure = new VregError('STORE_FULL', 'the disk is full');
  const saved = registry.saveHeartbeats();
  await Promise.all([assert.rejects(saved, { code: 'STORE_FULL' }), store.release(), updated]);
  assert.equal(registry.unsaved.isEmpty, false);
  store.heartbeatsFailure = undefined;
  await registry.saveHeartbeats();
  assert.equal(store.vms.get('vm-1')?.lastSeen, clock.wall);
  assert.equal(store.listened, clock.heard);
  assert.equal(registry.unsaved.isEmpty, true);
});

test('the heartbeats of a removed VM are not saved', async () => {
  const { registry, store } = setUp(new MemoryStore());
  await registry.register(aVm());
  registry.heartbeat('vm-1');
  await registry.deregister('vm-1');
  await registry.saveHeartbeats();
  assert.equal(store.vms.size, 0);
});

function aRecord(id: string): VmRecord {
  const version = { created: 1, revision: 1, tag: '' };
  return new VmRecord({ ...aVm({ id }), registeredAt: '2026-01-01T00:00:00.000Z' }, version, {
    lastSeen: 0,
    heardAt: 0,
  });
}

test('each VM in the buffer of heartbeats is saved once, with its last one', async () => {
  const store = new MemoryStore();
  const saved: string[] = [];
  store.saveHeartbeats = async (heartbeats) =>
    void saved.push(...Array.from(heartbeats, ({ id, heardAt }) => `${id}@${heardAt}`));
  const buffer = new HeartbeatBuffer(store);
  const [a, b] = ['a', 'b'].map((id) => aRecord(id));
  const isCurrent = () => true;
  for (const entry of [a!, b!, a!]) buffer.add(entry);
  a!.touch({ lastSeen: 0, heardAt: 7 });
  buffer.delete(a!);
  buffer.add(a!);
  await buffer.save(0, isCurrent);
  assert.deepEqual(saved, ['a@7', 'b@0']);
  assert.equal(buffer.isEmpty, true);
  buffer.add(b!);
  buffer.delete(b!);
  assert.equal(buffer.isEmpty, true);
  await buffer.save(0, isCurrent);
  assert.equal(saved.length, 2);
});

test('a save of heartbeats that fails half-way retains those that it has read and the others', async () => {
  const store = new MemoryStore();
  const buffer = new HeartbeatBuffer(store);
  const [a, b, gone] = ['a', 'b', 'gone'].map(aRecord);
  for (const entry of [a!, b!, gone!]) buffer.add(entry);
  store.saveHeartbeats = async (heartbeats) => {
    for (const _first of heartbeats) throw new Error('disk');
  };
  const isCurrent = (entry: VmRecord) => entry !== gone;
  await assert.rejects(buffer.save(0, isCurrent), { message: 'disk' });
  assert.equal(buffer.isEmpty, false);
  const saved: string[] = [];
  store.saveHeartbeats = async (heartbeats) => void saved.push(...Array.from(heartbeats, ({ id }) => id));
  await buffer.save(0, isCurrent);
  assert.deepEqual(saved, ['a', 'b']);
  assert.equal(buffer.isEmpty, true);
});

test('a VM that sends a heartbeat during each failing save is in the buffer once', async () => {
  const store = new MemoryStore();
  const buffer = new HeartbeatBuffer(store);
  const a = aRecord('a');
  buffer.add(a);
  store.saveHeartbeats = async (heartbeats) => {
    assert.equal([...heartbeats].length, 1);
    buffer.add(a);
    throw new Error('disk');
  };
  for (let failure = 1; failure <= 5; failure++) {
    let examined = 0;
    await assert.rejects(
      buffer.save(0, () => ++examined > 0),
      { message: 'disk' },
    );
    assert.equal(examined, 1);
  }
});
