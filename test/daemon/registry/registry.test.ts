import assert from 'node:assert/strict';
import test from 'node:test';
import type { Entry } from '../../../daemon/registry/entry.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { MemoryStore } from '../../../daemon/store/memory.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { VmUpdate } from '../../../src/protocol/vm.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { aVm } from '../../helpers/vm.ts';

const STALE_AFTER = 300_000;

function setUp<S extends MemoryStore>(store: S) {
  const clock = new FakeClock();
  const open = () => new Registry({ store, clock, staleAfter: STALE_AFTER }, store.contents());
  return { store, clock, open, registry: open() };
}

const idsOf = (entries: readonly Entry[]) => entries.map(({ vm }) => vm.id);
const full = () => new VregError('STORE_FULL', 'the disk is full');

test('a new VM is registered and seen now', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  const entry = await registry.register(aVm());
  const now = new Date(clock.wall).toISOString();
  assert.deepEqual(JSON.parse(entry.json), { ...aVm(), registeredAt: now, lastSeen: now });
  assert.equal(registry.get('vm-1'), entry);
  assert.equal(registry.list({}).length, 1);
  assert.equal(registry.revision, 1);
});

test('an id that is taken is a conflict that names the field and the next step', async () => {
  const { registry } = setUp(new MemoryStore());
  await registry.register(aVm());
  await assert.rejects(registry.register(aVm({ name: 'two' })), {
    code: 'CONFLICT',
    message: 'VM already registered',
    field: 'id',
    hint: /vreg update/,
  });
  assert.equal(registry.get('vm-1').vm.name, 'one');
  assert.equal(registry.revision, 1);
});

test('of two racing registrations of one id one wins', async () => {
  const { registry, store } = setUp(new GatedStore());
  const first = registry.register(aVm({ name: 'first' }));
  const second = registry.register(aVm({ name: 'second' }));
  await assert.rejects(second, { code: 'CONFLICT' });
  await store.release();
  assert.equal((await first).vm.name, 'first');
  assert.equal(registry.revision, 1);
});

test('a registration that is on its way to the disk is not seen yet', async () => {
  const { registry, store } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  assert.equal(registry.has('vm-1'), false);
  assert.throws(() => registry.heartbeat('vm-1'), { code: 'NOT_FOUND' });
  await store.release();
  await registered;
  assert.equal(registry.has('vm-1'), true);
});

test('an unknown VM cannot be read, changed, removed or heard', async () => {
  const { registry } = setUp(new MemoryStore());
  const missing = { code: 'NOT_FOUND', message: 'VM not found', field: 'id' };
  assert.throws(() => registry.get('vm-1'), missing);
  assert.throws(() => registry.heartbeat('vm-1'), missing);
  await assert.rejects(registry.update('vm-1', { name: 'x' }), missing);
  await assert.rejects(registry.deregister('vm-1'), missing);
  assert.equal(registry.revision, 0);
});

test('an update replaces what it names, takes away what it nulls, and leaves the rest', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  await registry.register(aVm({ services: [{ name: 'a', port: 1 }], metadata: { old: 1 } }));
  const registeredAt = new Date(clock.wall).toISOString();
  clock.pass(1000);
  await registry.update('vm-1', { name: 'new', metadata: { fresh: [2] } });
  const updated = await registry.update('vm-1', { services: null });
  assert.deepEqual(JSON.parse(updated.json), {
    ...aVm({ name: 'new', metadata: { fresh: [2] } }),
    registeredAt,
    lastSeen: registeredAt,
  });
  assert.equal(registry.revision, 3);
});

test('only running is a sign of life: no other update moves lastSeen', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  const { lastSeen } = await registry.register(aVm());
  clock.pass(1000);
  const updates: VmUpdate[] = [
    { status: 'paused' },
    { status: 'stopped' },
    { name: 'n' },
    { address: 'a' },
    { services: [] },
    { metadata: {} },
  ];
  for (const update of updates) {
    assert.equal((await registry.update('vm-1', update)).lastSeen, lastSeen, JSON.stringify(update));
  }
  assert.equal((await registry.update('vm-1', { status: 'running' })).lastSeen, new Date(clock.wall).toISOString());
});

test('a heartbeat moves lastSeen, and neither the status nor the revision', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  await registry.register(aVm({ status: 'paused' }));
  clock.pass(1000);
  const entry = registry.heartbeat('vm-1');
  assert.equal(entry.lastSeen, new Date(clock.wall).toISOString());
  assert.equal(registry.get('vm-1').vm.status, 'paused');
  assert.equal(registry.revision, 1);
});

test('a VM is stale one millisecond after its lease, and not before', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  const entry = await registry.register(aVm());
  clock.pass(STALE_AFTER);
  assert.equal(registry.isStale(entry), false);
  assert.deepEqual(idsOf(registry.discover('worker')), ['vm-1']);
  assert.deepEqual(idsOf(registry.list({ status: 'running' })), ['vm-1']);
  clock.pass(1);
  assert.equal(registry.isStale(entry), true);
  assert.deepEqual(registry.discover('worker'), []);
  assert.deepEqual(registry.list({ status: 'running' }), []);
  assert.deepEqual(idsOf(registry.list({})), ['vm-1'], 'a stale VM is still registered');
  assert.deepEqual(idsOf(registry.list({ role: 'worker' })), ['vm-1']);
  assert.equal(registry.get('vm-1').vm.status, 'running', 'time changes no status');
  registry.heartbeat('vm-1');
  assert.deepEqual(idsOf(registry.discover('worker')), ['vm-1']);
});

test('a wall clock that is set makes nobody stale and nobody live', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  await registry.register(aVm());
  clock.wall += 10 * STALE_AFTER;
  assert.deepEqual(idsOf(registry.discover('worker')), ['vm-1']);
  clock.heard += STALE_AFTER + 1;
  clock.wall -= 20 * STALE_AFTER;
  assert.deepEqual(registry.discover('worker'), []);
});

test('lists are newest first and discoveries oldest first, whatever was updated or heard since', async () => {
  const { registry, clock, open } = setUp(new MemoryStore());
  for (const id of ['a', 'b', 'c', 'd']) await registry.register(aVm({ id, role: id === 'c' ? 'infra' : 'worker' }));
  clock.pass(10);
  await registry.update('a', { name: 'renamed', status: 'running' });
  registry.heartbeat('b');
  await registry.deregister('d');
  await registry.register(aVm({ id: 'd' }));
  await registry.deregister('b');
  await registry.register(aVm({ id: 'b' }));
  await registry.saveBeats();
  for (const it of [registry, open()]) {
    assert.deepEqual(idsOf(it.list({})), ['b', 'd', 'c', 'a']);
    assert.deepEqual(idsOf(it.list({ role: 'worker' })), ['b', 'd', 'a']);
    assert.deepEqual(idsOf(it.discover('worker')), ['a', 'd', 'b']);
    assert.deepEqual(idsOf(it.discover('infra')), ['c']);
    assert.deepEqual(it.discover('golden'), []);
  }
});

test('a filter for a status sees what is declared; an unknown role or status is nobody', async () => {
  const { registry, clock } = setUp(new MemoryStore());
  for (const status of ['running', 'paused', 'stopped'] as const) await registry.register(aVm({ id: status, status }));
  clock.pass(STALE_AFTER + 1);
  assert.deepEqual(idsOf(registry.list({ status: 'paused' })), ['paused'], 'staleness is a matter of running VMs only');
  assert.deepEqual(idsOf(registry.list({ status: 'stopped', role: 'worker' })), ['stopped']);
  assert.deepEqual(registry.list({ status: 'nonsense' }), []);
  assert.deepEqual(registry.list({ role: 'nonsense' }), []);
});

test('a reload finds the same entries, byte for byte', async () => {
  const { registry, clock, open } = setUp(new MemoryStore());
  await registry.register(aVm({ id: 'a', metadata: { text: '☃ 𝄞 "\\', deep: { list: [1, null, true] } } }));
  await registry.register(aVm({ id: 'b', services: [{ name: 's', port: 80, healthPath: '/x', extra: 1 }] }));
  clock.pass(5);
  registry.heartbeat('a');
  await registry.saveBeats();
  const again = open();
  assert.equal(again.revision, registry.revision);
  assert.deepEqual(
    again.list({}).map(({ json }) => json),
    registry.list({}).map(({ json }) => json),
  );
});

test('a failed commit leaves nothing changed, and its revision is given to the next one', async () => {
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
  assert.equal((await registry.register(aVm({ id: 'b' }))).order.revision, 2);
  await registry.deregister('a');
  assert.equal(registry.revision, 3);
  assert.equal(store.revision, 3);
});

test('what was decided on a change that fails, fails with it', async () => {
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
  assert.deepEqual((await again).order, { created: 1, revision: 1 });
});

test('a refusal by a busy store leaves what is on its way alone', async () => {
  const { registry, store } = setUp(new GatedStore());
  const first = registry.register(aVm());
  store.refusal = new VregError('BUSY', 'too many wait');
  await assert.rejects(registry.register(aVm({ id: 'vm-2' })), { code: 'BUSY' });
  store.refusal = undefined;
  await assert.rejects(registry.register(aVm()), { code: 'CONFLICT' }, 'the first is still on its way');
  const third = registry.register(aVm({ id: 'vm-3' }));
  await store.release();
  assert.equal((await first).order.revision, 1);
  assert.equal((await third).order.revision, 2);
});

test('a removal that becomes durable hides no later decision about the same id', async () => {
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

test('a beat that comes while an update is on its way is not taken back, and is saved', async () => {
  const { registry, store, clock } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  await store.release();
  await registered;
  clock.pass(1000);
  const updated = registry.update('vm-1', { name: 'two' });
  clock.pass(1000);
  const { lastSeen } = registry.heartbeat('vm-1');
  await registry.saveBeats();
  await store.release();
  assert.equal((await updated).lastSeen, lastSeen);
  assert.equal(registry.get('vm-1').lastSeen, lastSeen);
  await registry.saveBeats();
  assert.equal(store.vms.get('vm-1')?.lastSeen, clock.wall, 'the update carried an older sign of life to the store');
});

test('beats that could not be saved are saved later, even when an update came between', async () => {
  const { registry, store, clock } = setUp(new GatedStore());
  const registered = registry.register(aVm());
  await store.release();
  await registered;
  const updated = registry.update('vm-1', { name: 'two' });
  clock.pass(1000);
  registry.heartbeat('vm-1');
  store.beatsFailure = full();
  const saved = registry.saveBeats();
  await Promise.all([assert.rejects(saved, { code: 'STORE_FULL' }), store.release(), updated]);
  assert.equal(registry.hasUnsavedBeats, true);
  store.beatsFailure = undefined;
  await registry.saveBeats();
  assert.equal(store.vms.get('vm-1')?.lastSeen, clock.wall);
  assert.equal(store.listened, clock.heard);
  assert.equal(registry.hasUnsavedBeats, false);
});

test('the beats of a VM that was removed are not saved', async () => {
  const { registry, store } = setUp(new MemoryStore());
  await registry.register(aVm());
  registry.heartbeat('vm-1');
  await registry.deregister('vm-1');
  await registry.saveBeats();
  assert.equal(store.vms.size, 0);
});

test('after a restart a live VM stays live for the rest of its lease, and a stale one stale', async () => {
  const { registry, clock, open } = setUp(new MemoryStore());
  await registry.register(aVm({ id: 'silent' }));
  clock.pass(STALE_AFTER);
  await registry.register(aVm({ id: 'live' }));
  clock.pass(1);
  await registry.saveBeats();
  // A night without the registry: the wall clock goes on, the listening clock does not.
  clock.wall += 8 * 3_600_000;
  const again = open();
  assert.deepEqual(idsOf(again.discover('worker')), ['live']);
  clock.pass(STALE_AFTER - 1);
  assert.deepEqual(idsOf(again.discover('worker')), ['live']);
  clock.pass(1);
  assert.deepEqual(idsOf(again.discover('worker')), []);
});
