/** The registry's responses to positions in heartbeats, and its record of the claims of agents. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { RegistryObserver } from '../../../daemon/registry/options.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { JOURNAL_LENGTH } from '../../../src/protocol/events.ts';
import type { AgentHeartbeat } from '../../../src/protocol/heartbeat.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

const LEASE = 300_000;
const HOUR = 3_600_000;
const FOREIGN = `1-${'0'.repeat(16)}`;

async function setUp() {
  const [clock, store] = [new FakeClock(), new MemoryStore()];
  const rollbacks: number[] = [];
  const claims: string[] = [];
  const observer: RegistryObserver = {
    rollback: (vms) => void rollbacks.push(vms),
    otherRegistry: ({ otherPosition }) => void claims.push(otherPosition),
  };
  const options = { store, clock, staleAfter: LEASE, observer };
  const registry = new Registry(options, store.contents());
  for (const id of ['a', 'b', 'c']) await registry.register(aVm({ id }));
  const send = (id: string, heartbeat: AgentHeartbeat, to = registry) => {
    to.heartbeat(id, heartbeat);
    return to.compareHistory(id, heartbeat);
  };
  return { clock, store, registry, options, rollbacks, claims, send };
}

test('a rollback is reported at most once an hour, with the number of VMs, and counted', async () => {
  const { clock, registry, rollbacks, send } = await setUp();
  for (const id of ['a', 'b', 'a']) assert.deepEqual(send(id, { position: FOREIGN }), { history: 'other' });
  await registry.saveHeartbeats();
  assert.deepEqual(rollbacks, [], 'more agents may follow within seconds');
  clock.pass(3000);
  await registry.saveHeartbeats();
  assert.deepEqual([rollbacks, registry.historyClaims.rolledBack], [[2], 2]);
  for (let minutes = 0; minutes < 59; minutes++) {
    clock.pass(60_000);
    send('c', { position: FOREIGN });
    await registry.saveHeartbeats();
  }
  assert.deepEqual(rollbacks, [2]);
  clock.pass(HOUR - 59 * 60_000);
  await registry.saveHeartbeats();
  assert.deepEqual([rollbacks, registry.historyClaims.rolledBack], [[2, 1], 3]);
  await registry.deregister('a');
  assert.equal(registry.historyClaims.rolledBack, 2);
});

test('an agent that meets the history that it left is answered so, unless its position follows it there', async () => {
  const { store, send } = await setUp();
  const [early, late] = [store.positionAt(1), store.positionAt(3)];
  assert.deepEqual(send('a', { position: FOREIGN, leftPosition: late }), { history: 'other', returned: true });
  assert.deepEqual(send('a', { position: early, leftPosition: late }), { history: 'same', returned: true });
  assert.deepEqual(send('a', { position: late, leftPosition: early }), { history: 'same' });
  assert.deepEqual(send('a', { position: late, leftPosition: FOREIGN }), { history: 'same' });
  assert.deepEqual(send('a', { position: 'x', leftPosition: late }), { history: 'unknown' });
  assert.equal(send('a', {}), undefined);
});

test('the claim of another registry is one record that survives a restart, and clients only see it as a claim', async () => {
  const { clock, store, registry, options, claims, rollbacks, send } = await setUp();
  const own = store.positionAt(3);
  const before = registry.discover('worker').map(({ json }) => json);
  send('a', { position: FOREIGN, leftPosition: own, alternates: true });
  const firstAt = new Date(clock.wall).toISOString();
  clock.pass(1000);
  send('b', { position: own, leftPosition: FOREIGN, alternates: true });
  send('b', { position: own, leftPosition: FOREIGN, alternates: true });
  const lastAt = new Date(clock.wall).toISOString();
  const claim = { position: own, otherPosition: FOREIGN, vms: 2, firstAt, lastAt };
  assert.deepEqual(registry.historyClaims.otherRegistry, claim);
  assert.deepEqual(claims, [FOREIGN], 'logged once');
  send('c', { position: FOREIGN, leftPosition: `2-${'0'.repeat(16)}`, alternates: true });
  send('c', { position: own, alternates: true });
  assert.deepEqual(registry.historyClaims.otherRegistry, claim, 'a claim without a position of this registry is none');
  assert.deepEqual(registry.conflicts.all, []);
  assert.deepEqual(registry.discover('worker').length, before.length);
  await registry.saveHeartbeats();
  const again = new Registry(options, store.contents());
  assert.deepEqual(again.historyClaims.otherRegistry, claim);
  send('c', { position: own, leftPosition: FOREIGN, alternates: true }, again);
  assert.equal(again.historyClaims.otherRegistry?.vms, 2, 'the count does not shrink after a restart');
  const failing = () => Promise.reject(new Error('the disk is full'));
  await assert.rejects(again.historyClaims.clear(failing), /disk is full/);
  assert.ok(again.historyClaims.otherRegistry);
  assert.equal(await again.historyClaims.clear(() => again.saveHeartbeats()), 1);
  assert.equal(again.historyClaims.otherRegistry, undefined);
  assert.equal(new Registry(options, store.contents()).historyClaims.otherRegistry, undefined);
  clock.pass(HOUR);
  await registry.saveHeartbeats();
  assert.deepEqual(rollbacks, [1], 'only the one claim that names no position of this registry is a rollback');
});

test('two registries over the same contents are the same until each has its own next change', async () => {
  const { store, options, registry, send } = await setUp();
  const copied = new MemoryStore();
  for (const [id, vm] of store.vms) copied.vms.set(id, { ...vm });
  copied.journal.push(...store.journal);
  copied.positions.splice(0, copied.positions.length, ...store.positions);
  const copy = new Registry({ ...options, store: copied }, copied.contents());
  const common = registry.positions.current;
  assert.deepEqual(send('a', { position: common }, copy), { history: 'same' });
  await registry.update('a', { name: 'x' });
  assert.deepEqual(send('a', { position: registry.positions.current }, copy), { history: 'other' });
  await copy.update('a', { name: 'y' });
  assert.deepEqual(send('a', { position: registry.positions.current }, copy), { history: 'other' });
  assert.deepEqual(send('a', { position: copy.positions.current, leftPosition: registry.positions.current }), {
    history: 'other',
    returned: true,
  });
});

test('an agent that missed more changes than the journal has gets unknown, in the same history or another', async () => {
  const { store, options, send } = await setUp();
  const tag = '1'.repeat(16);
  const positionsAfter = (changes: number) => [
    ...store.positions,
    ...Array.from({ length: changes }, (_, n) => ({ revision: 4 + n, tag })),
  ];
  const own = store.positionAt(3);
  const fewer = new Registry(options, { ...store.contents(), positions: positionsAfter(JOURNAL_LENGTH - 1) });
  assert.deepEqual(send('a', { position: own }, fewer), { history: 'same' });
  const registry = new Registry(options, { ...store.contents(), positions: positionsAfter(JOURNAL_LENGTH) });
  assert.deepEqual(send('a', { position: own }, registry), { history: 'unknown' });
  assert.deepEqual(send('a', { position: FOREIGN }, registry), { history: 'unknown' });
  assert.equal(registry.historyClaims.rolledBack, 0);
});

test('a claim needs two well-formed positions that differ', async () => {
  const { store, registry, send } = await setUp();
  const own = store.positionAt(3);
  for (const leftPosition of ['x', '', `9-${'z'.repeat(16)}`, '\u001b[2J', 'x'.repeat(100_000), own])
    send('a', { position: own, leftPosition, alternates: true });
  assert.equal(registry.historyClaims.otherRegistry, undefined);
});
