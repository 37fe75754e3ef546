import assert from 'node:assert/strict';
import test from 'node:test';
import { ConflictLog } from '../../../daemon/registry/conflict-log.ts';
import { Identities } from '../../../daemon/registry/identity.ts';
import { RecordQueue } from '../../../daemon/registry/record-queue.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import type { VmEvent } from '../../../src/protocol/events.ts';
import {
  CLONE,
  DECIDED,
  heartbeat,
  LEASE,
  ONE,
  OWN,
  registryWithVm,
  TWO,
  token,
  UNDECIDED,
} from '../../helpers/incarnations.ts';
import { tagAt } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

test('a clone that registers as a child of the VM marks the conflict as reborn', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(2) });
  assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), CLONE);
  // Another client that has read the conflict cannot end it.
  await registry.register(aVm({ id: 'vm-3', parentId: 'vm-1' }));
  registry.heartbeat('vm-3', { ...TWO, from: '192.0.2.3', next: token(1, 'c') });
  assert.equal(registry.conflicts.all[0]?.state, 'open');
  await registry.register(aVm({ id: 'vm-2', parentId: 'vm-1' }));
  registry.heartbeat('vm-2', { ...TWO, next: token(1, 'b') });
  const [conflict] = registry.conflicts.all;
  assert.deepEqual([conflict?.state, conflict?.rebornAs], ['reborn', 'vm-2']);
});

test('conflicts can be deleted for one VM or all, and the oldest is evicted when there are too many', async () => {
  const { registry } = await registryWithVm();
  await registry.register(aVm({ id: 'vm-2' }));
  for (const id of ['vm-1', 'vm-2']) {
    registry.heartbeat(id, { ...ONE, next: token(9) });
    assert.throws(() => registry.heartbeat(id, { ...TWO, spend: token(1), next: token(2, 'b') }), CLONE);
  }
  const clear = (id?: string) => registry.conflicts.clear(id, () => registry.saveHeartbeats());
  assert.equal(await clear('vm-1'), 1);
  assert.equal(await clear('vm-1'), 0);
  assert.equal(await clear(), 1);
  for (let n = 0; n < 1001; n++) {
    const spend = `1.${n.toString(16).padStart(32, '0')}`;
    assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend, next: token(2, 'b') }), CLONE);
  }
  assert.equal(registry.conflicts.all.length, 1000);
});

test('conflicts are deleted once the deletion is durable, but remain if the save fails or if they recur', async () => {
  const { registry, store } = await registryWithVm();
  const { conflicts } = registry;
  const collide = (digit: string) =>
    assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1, digit), next: token(2, 'b') }), CLONE);
  const stored = () => store.contents().records.filter(({ kind }) => kind === 'conflict').length;
  registry.heartbeat('vm-1', { ...ONE, next: token(9) });
  for (const digit of ['c', 'd']) collide(digit);
  await registry.saveHeartbeats();
  const before = conflicts.all;

  const full = new Error('the disk is full');
  await assert.rejects(
    conflicts.clear('vm-1', () => Promise.reject(full)),
    full,
  );
  assert.deepEqual(conflicts.all, before);
  await registry.saveHeartbeats();
  assert.equal(stored(), 2, 'the next save does not delete any');

  const cleared = conflicts.clear('vm-1', async () => {
    await registry.saveHeartbeats();
    collide('d');
  });
  assert.equal(conflicts.all.length, 2, 'not durable yet');
  assert.equal(await cleared, 2);
  assert.deepEqual(
    conflicts.all.map(({ count }) => count),
    [2],
  );
  await registry.saveHeartbeats();
  assert.equal(stored(), 1);
});

function crowded() {
  const now = { at: '2026-01-01T00:00:00.000Z', listening: 0, lease: 300_000, silenceFrom: 0 };
  const entry = (id: string) =>
    new VmRecord(
      { ...aVm({ id }), registeredAt: now.at },
      { created: 1, revision: 1, tag: tagAt(1) },
      { lastSeen: 0, heardAt: 0 },
    );
  const queue = new RecordQueue();
  const conflicts = new ConflictLog({ records: [] }, () => undefined, queue);
  return { conflicts, identities: new Identities({ records: [] }, () => undefined, queue, conflicts), entry, now };
}

test('a VM with many conflicts does not evict the conflicts of others', () => {
  const { conflicts, identities, entry, now } = crowded();
  const open = (id: string, n: number) => {
    const token = (digit: number) => `${digit}.${String(n).padStart(32, '0')}`;
    assert.throws(() => identities.prove(entry(id), { spend: token(1), next: token(2), incarnation: `x${n}` }, now));
  };
  for (const id of ['quiet', 'noisy'])
    identities.prove(entry(id), { next: `5.${'f'.repeat(32)}`, incarnation: 'one' }, now);
  open('quiet', 1);
  for (let n = 0; n < 1500; n++) open('noisy', n);
  assert.equal(conflicts.all.length, 1000);
  assert.ok(conflicts.all.some(({ id }) => id === 'quiet'));
});

test('each copy that spends a used token has a record with its address', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  const copies = [
    { ...TWO, next: token(2, 'b') },
    { ...TWO, address: '10.0.0.3', next: token(2, 'b') },
    { ...TWO, from: '192.0.2.4', next: token(2, 'b') },
    { ...TWO, incarnation: 'five', next: token(2, 'c') },
  ];
  for (const copy of [...copies, ...copies])
    assert.throws(() => heartbeat(registry, { ...copy, spend: token(1) }), UNDECIDED);
  assert.deepEqual(
    registry.conflicts.all.map(({ count, other }) => [count, other.incarnation, other.address, other.from]),
    copies.toReversed().map(({ incarnation, address, from }) => [2, incarnation, address, from]),
  );
});

test('a conflict is an event of its VM, once for each record and change of its state, and at most 16 times for one VM', async () => {
  const { registry, clock } = await registryWithVm();
  const events: VmEvent[] = [];
  registry.events.subscribe({
    event: ({ type, json }) => type === 'conflict' && events.push(JSON.parse(json) as VmEvent),
  });
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  const copy = { ...TWO, spend: token(1), next: token(2, 'b') };
  for (let times = 0; times < 2; times++) assert.throws(() => heartbeat(registry, copy), UNDECIDED);
  const [event, ...others] = events;
  assert.deepEqual(others, []);
  assert.deepEqual(
    [event?.vm.id, event?.revision, event?.conflict],
    ['vm-1', 1, { ...registry.conflicts.all[0], count: 1 }],
  );
  assert.doesNotMatch(JSON.stringify(events), /bbbb|spend|against/, 'no event contains an agent token');
  clock.pass(LEASE + 1);
  heartbeat(registry, copy);
  assert.deepEqual(
    events.map(({ conflict }) => conflict?.state),
    ['open', 'replaced'],
  );
  for (let n = 3; n < 40; n++) {
    const invented = { spend: token(1, n.toString(16).slice(-1)), next: token(2, 'c'), incarnation: `${n}` };
    assert.throws(() => heartbeat(registry, invented), CLONE);
  }
  assert.equal(events.length, 17);
});

test('after a change of role, conflicts show nothing that the holder reported in the former role', async () => {
  for (const isCrashed of [false, true]) {
    const { registry, clock, store, options } = await registryWithVm();
    const events: VmEvent[] = [];
    heartbeat(registry, { ...OWN, next: token(1) });
    await registry.saveHeartbeats();
    clock.pass(1000);
    await registry.replace(aVm({ id: 'vm-1', role: 'infra' }));
    const movedAt = new Date(clock.wall).toISOString();
    const after = isCrashed ? new Registry(options, store.contents()) : registry;
    after.events.subscribe({
      event: ({ type, json }) => type === 'conflict' && events.push(JSON.parse(json) as VmEvent),
    });
    clock.pass(1000);
    assert.throws(() => heartbeat(after, { ...TWO, next: token(9, 'b') }), UNDECIDED);
    const enroller = { address: '10.0.0.3', from: '192.0.2.3', isReturning: true };
    assert.throws(() => after.assertVacant('vm-1', enroller), { code: 'CONFLICT' });
    assert.deepEqual(
      [...after.conflicts.inCurrentRole, ...events.map(({ conflict }) => conflict!)].map(({ holder }) => holder),
      Array.from({ length: 4 }, () => ({ at: movedAt })),
    );
    heartbeat(after, { ...OWN, spend: token(1), next: token(2) });
    assert.throws(() => heartbeat(after, { ...TWO, next: token(9, 'b') }), DECIDED);
    assert.equal(after.conflicts.inCurrentRole.at(-1)?.holder.address, OWN.address);
  }
});
