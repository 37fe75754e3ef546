/** Several replicas of one registry on a shared store. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { Tokens } from '../../../daemon/access/tokens.ts';
import type { Event } from '../../../daemon/registry/events.ts';
import type { Proof } from '../../../daemon/registry/incarnation.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { Status } from '../../../src/protocol/vm.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { FakeCluster, type ReplicaStore } from '../../helpers/fake-cluster.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

const LEASE = 300_000;

interface Replica {
  registry: Registry;
  store: ReplicaStore;
  tokens: Tokens;
  clock: FakeClock;
  /** Types, ids and revisions of all events. */
  events: string[];
  closed: number;
}

function start(cluster: FakeCluster, clock: FakeClock): Replica {
  const store = cluster.replica();
  const contents = store.contents();
  const replica: Replica = { store, clock, events: [], closed: 0 } as unknown as Replica;
  const registry = new Registry(
    {
      store,
      clock,
      staleAfter: LEASE,
      onDeregister: (id) => replica.tokens.removeWithVm(id),
      onMove: (id, created) => replica.tokens.moveWithVm(id, created),
      onTokenRecord: (record) => replica.tokens.recordArrived(record),
    },
    contents,
  );
  registry.events.subscribe({
    event: ({ type, id, revision }: Event) => replica.events.push(`${type} ${id} ${revision}`),
  });
  replica.registry = registry;
  replica.tokens = new Tokens(contents, {
    queue: registry.unsaved.records,
    revocations: registry.unsaved.revocations,
    commit: (records, by) => registry.commitTokens(records, by),
    registrationOf: (id) => registry.registrationOf(id),
    now: () => clock.now(),
    closed: () => replica.closed++,
  });
  return replica;
}

/** Replicas with clocks of their own, all at the same time. */
function setUp(count = 2) {
  const cluster = new FakeCluster();
  const replicas = Array.from({ length: count }, () => start(cluster, new FakeClock()));
  const [a, b] = replicas as [Replica, Replica];
  const deliver = () => {
    for (const { store } of replicas) store.deliver();
  };
  const pass = (ms: number) => {
    for (const { clock } of replicas) clock.pass(ms);
  };
  return { cluster, replicas, a, b, deliver, pass };
}

test('a change is visible on its own replica at once, and on the others when it has arrived', async () => {
  const { a, b } = setUp();
  const entry = await a.registry.register(aVm());
  assert.equal(a.registry.get('vm-1'), entry);
  assert.equal(a.store.lag, 1, 'it has not arrived here either');
  assert.equal(b.registry.has('vm-1'), false);
  b.store.deliver();
  assert.equal(b.registry.get('vm-1').json, entry.json);
  assert.equal(b.registry.get('vm-1').position, entry.position);
  assert.deepEqual(b.registry.get('vm-1').version, entry.version);
});

test('exactly one of many concurrent registrations of an id succeeds', async () => {
  const { cluster, replicas } = setUp(3);
  cluster.waiting = [];
  const all = replicas.flatMap(({ registry }, n) => [1, 2].map((m) => registry.register(aVm({ name: `${n}-${m}` }))));
  const outcomes = Promise.allSettled(all);
  await new Promise(setImmediate);
  while (cluster.waiting.length > 0) {
    cluster.execute(cluster.waiting.length - 1);
    await new Promise(setImmediate);
  }
  const results = await outcomes;
  assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
  for (const result of results) if (result.status === 'rejected') assert.equal(result.reason.code, 'CONFLICT');
  assert.equal(cluster.log.length, 1);
});

test('a replica refuses a change only after it has caught up', async () => {
  const { a, b, deliver } = setUp();
  await a.registry.register(aVm());
  assert.equal((await b.registry.update('vm-1', { name: 'two' })).name, 'two', 'a VM that has not arrived');
  await a.registry.deregister('vm-1');
  assert.equal((await b.registry.register(aVm({ name: 'three' }))).name, 'three', 'a removal that has not arrived');
  const { position } = await a.registry.update('vm-1', { name: 'four' });
  await b.registry.update('vm-1', { name: 'five' }, { expect: [position] });
  await assert.rejects(a.registry.update('vm-1', { name: 'six' }, { expect: [position] }), {
    code: 'PRECONDITION_FAILED',
  });
  await assert.rejects(a.registry.register(aVm()), { code: 'CONFLICT' });
  await a.registry.replicas.catchUp();
  await b.registry.deregister('vm-1');
  const again = aVm({ name: 'five' });
  assert.equal((await a.registry.replace(again)).created, true, 'the same values as those of the removed VM');
  await b.registry.deregister('vm-1');
  await assert.rejects(a.registry.update('vm-1', { name: 'seven' }), { code: 'NOT_FOUND' });
  deliver();
  assert.equal(a.registry.has('vm-1'), false);
});

test('a replica catches up once to refuse changes to a VM that arrive together', async (t) => {
  const { a, b } = setUp();
  const { position } = await a.registry.register(aVm());
  const { replication } = a.store;
  const { refresh } = replication;
  let later: Promise<unknown> | undefined;
  const mock = t.mock.method(replication, 'refresh', async () => {
    const revision = await refresh();
    // The replica must catch up again for a change that arrives now, because it does not know what the other one does now.
    if (!later) {
      const { position: latest } = await b.registry.update('vm-1', { name: 'other' });
      later = a.registry.update('vm-1', { name: 'later' }, { expect: [latest] });
    }
    return revision;
  });
  const names = ['1', '2', '3', '4', '5'];
  const changes = names.map((name) => a.registry.update('vm-1', { name }, { expect: [position] }));
  const outcomes = await Promise.allSettled(changes);
  assert.deepEqual(
    outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value.name : outcome.reason.code)),
    ['1', ...names.slice(1).map(() => 'PRECONDITION_FAILED')],
  );
  assert.equal(mock.mock.callCount(), 1);
  assert.ok(later);
  await later;
  assert.equal(mock.mock.callCount(), 2);
  assert.equal(a.registry.get('vm-1').name, 'later');
});

test('a replica that cannot catch up answers 503 instead of refusing', async () => {
  const { cluster, a } = setUp();
  await a.registry.register(aVm());
  cluster.isAway = true;
  await assert.rejects(a.registry.register(aVm()), { code: 'STORE_FAILED' });
  await assert.rejects(a.registry.deregister('vm-2'), { code: 'STORE_FAILED' });
  await assert.rejects(a.registry.update('vm-1', { name: 'two' }), { code: 'STORE_FAILED' });
  assert.equal(a.registry.get('vm-1').name, aVm().name, 'reads are served');
  cluster.isAway = false;
  await a.registry.update('vm-1', { name: 'two' });
});

test('a change that waits too long for earlier ones to the same VM is refused, and never executed', async (t) => {
  const { cluster, a } = setUp();
  await a.registry.register(aVm());
  t.mock.timers.enable({ apis: ['setTimeout'] });
  cluster.waiting = [];
  const first = a.registry.update('vm-1', { name: 'first' });
  const late = assert.rejects(a.registry.update('vm-1', { name: 'late' }), { code: 'BUSY', retryAfter: 1 });
  const other = a.registry.register(aVm({ id: 'vm-2' }));
  t.mock.timers.tick(3999);
  const last = a.registry.update('vm-1', { name: 'last' });
  t.mock.timers.tick(1);
  await late;
  assert.equal(cluster.waiting.length, 2, 'the last change waits for the first one');
  cluster.execute();
  cluster.execute();
  assert.equal((await first).name, 'first');
  await other;
  await new Promise(setImmediate);
  cluster.execute();
  await last;
  const names = cluster.log.map(({ change }) => (change.kind === 'put' ? JSON.parse(change.vm.body).name : ''));
  assert.deepEqual(names, [aVm().name, 'first', aVm().name, 'last']);
});

test('a change after one that was refused still waits for the earlier ones', async (t) => {
  const { cluster, a } = setUp();
  await a.registry.register(aVm());
  t.mock.timers.enable({ apis: ['setTimeout'] });
  cluster.waiting = [];
  const first = a.registry.update('vm-1', { name: 'first' });
  const late = assert.rejects(a.registry.update('vm-1', { name: 'late' }), { code: 'BUSY' });
  t.mock.timers.tick(4000);
  await late;
  const last = a.registry.update('vm-1', { name: 'last' });
  await new Promise(setImmediate);
  assert.equal(cluster.waiting.length, 1, 'only the first change was sent');
  cluster.execute();
  await first;
  await new Promise(setImmediate);
  cluster.execute();
  assert.equal((await last).name, 'last');
});

test('concurrent changes to one VM through several replicas are applied one after the other', async () => {
  const { a, b, deliver } = setUp();
  await a.registry.register(aVm());
  const names = ['1', '2', '3', '4'];
  await Promise.all(names.flatMap((name) => [a, b].map(({ registry }) => registry.update('vm-1', { name }))));
  deliver();
  assert.equal(a.registry.get('vm-1').json, b.registry.get('vm-1').json);
  assert.equal((await a.registry.history('vm-1', 100)).length, 9);
});

test('all replicas publish the same events in the order of revisions', async () => {
  const { a, b, deliver } = setUp();
  await a.registry.register(aVm({ id: 'a' }));
  await b.registry.register(aVm({ id: 'b' }));
  await a.registry.update('a', { status: 'paused' });
  await b.registry.deregister('b');
  assert.deepEqual(b.events, [], 'its own changes wait for the earlier ones');
  deliver();
  assert.deepEqual(
    a.events.map((event) => event.split(' ').slice(0, 2).join(' ')),
    ['registered a', 'registered b', 'status a', 'deregistered b'],
  );
  assert.deepEqual(a.events, b.events);
  assert.equal(a.registry.positions.current, b.registry.positions.current);
});

test('lists have the same order on all replicas, although changes become visible in different orders', async () => {
  const { cluster, a, b, deliver } = setUp();
  await a.registry.register(aVm({ id: 'a' }));
  await b.registry.register(aVm({ id: 'b' }));
  await a.registry.register(aVm({ id: 'c' }));
  deliver();
  const late = start(cluster, a.clock);
  for (const { registry } of [a, b, late])
    assert.deepEqual(
      registry.list({}).map(({ id }) => id),
      ['c', 'b', 'a'],
    );
});

test('a position that has not arrived is unknown, and known after the replica has caught up', async () => {
  const { a, b } = setUp();
  const { position } = await a.registry.register(aVm());
  const { positions } = b.registry;
  assert.equal(positions.isAhead(position), true);
  assert.equal(positions.compare(position), 'unknown');
  await b.registry.replicas.catchUp();
  assert.equal(positions.isAhead(position), false);
  assert.equal(positions.compare(position), 'same');
  const later = `999999-${'a'.repeat(16)}`;
  assert.equal(positions.compare(later, true), 'other', 'the store has no such revision');
  assert.equal(positions.compare(position.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))), 'other');
});

test('a token that one replica revokes is revoked on the others when that arrives', async () => {
  const { a, b, deliver } = setUp();
  const { token } = await a.tokens.create({ name: 'ci', scope: 'write' }, 'ops');
  deliver();
  assert.equal(b.closed, 1, 'the registry requires a token now');
  const found = b.tokens.find(token)!;
  await assert.rejects(b.tokens.create({ name: 'ci', scope: 'read' }, 'ops'), { code: 'CONFLICT' });
  await b.tokens.create({ name: 'second', scope: 'read' }, 'ops');
  await assert.rejects(a.tokens.create({ name: 'second', scope: 'read' }, 'ops'), { code: 'CONFLICT' });
  assert.deepEqual(await a.tokens.revoke('ci', 'ops'), ['ci']);
  assert.equal(found.revoked.aborted, false);
  b.store.deliver();
  assert.equal(found.revoked.aborted, true);
  assert.equal(b.tokens.find(token), undefined);
});

test('the token of a VM that enrolled through one replica is bound to its registration on all', async () => {
  const { cluster, a, b, deliver } = setUp();
  const { token } = await a.tokens.create({ name: 'image', scope: 'enrol' }, 'ops');
  const enroller = a.tokens.find(token)!;
  let secret = '';
  const attach = (created: number) => {
    const issued = a.tokens.issue(enroller, aVm(), created);
    secret = issued.secret;
    return issued.attachment;
  };
  const entry = await a.registry.register(aVm(), { attach });
  deliver();
  for (const { tokens } of [a, b, start(cluster, a.clock)])
    assert.equal(tokens.find(secret)?.restriction?.created, entry.version.created);
  await b.registry.deregister('vm-1');
  deliver();
  for (const { tokens } of [a, b]) assert.equal(tokens.find(secret), undefined);
});

test('a VM is stale only if no replica has heard it for one lease', async () => {
  const { a, b, deliver, pass } = setUp();
  await a.registry.register(aVm());
  deliver();
  for (let n = 0; n < 8; n++) {
    pass(60_000);
    a.registry.heartbeat('vm-1');
    await a.registry.saveHeartbeats();
    deliver();
    assert.equal(b.registry.livenessOf(b.registry.get('vm-1')), 'live');
  }
  assert.equal(b.registry.get('vm-1').lastSeen, a.registry.get('vm-1').lastSeen);
  pass(LEASE + 1000);
  for (const { registry, events } of [a, b]) {
    registry.sweep();
    assert.equal(registry.livenessOf(registry.get('vm-1')), 'stale');
    assert.match(events.at(-1)!, /^stale vm-1/);
  }
  b.registry.heartbeat('vm-1');
  await b.registry.saveHeartbeats();
  deliver();
  for (const { events } of [a, b]) assert.match(events.at(-1)!, /^revived vm-1/);
});

test('nothing expires while heartbeats of other replicas do not arrive, nor before they could arrive again', async () => {
  const { a, b, deliver, pass } = setUp();
  await a.registry.register(aVm());
  deliver();
  pass(LEASE - 1000);
  b.store.setCurrent(false);
  pass(10 * LEASE);
  b.registry.sweep();
  assert.equal(b.registry.livenessOf(b.registry.get('vm-1')), 'live');
  b.store.setCurrent(true);
  pass(30_000);
  assert.equal(b.registry.livenessOf(b.registry.get('vm-1')), 'live', 'the first interval after the outage');
  pass(LEASE);
  b.registry.sweep();
  assert.deepEqual(
    b.events.filter((event) => event.startsWith('stale')).length,
    1,
    'it has been silent for a lease in which it could have been heard',
  );
});

test('a replica that starts lets nothing expire in its first interval', async () => {
  const { cluster, a, deliver, pass } = setUp();
  await a.registry.register(aVm());
  deliver();
  pass(LEASE - 1000);
  const late = start(cluster, a.clock);
  pass(20_000);
  late.registry.sweep();
  assert.equal(late.registry.livenessOf(late.registry.get('vm-1')), 'live');
  assert.equal(a.registry.livenessOf(a.registry.get('vm-1')), 'stale');
  pass(LEASE);
  assert.equal(late.registry.livenessOf(late.registry.get('vm-1')), 'stale');
});

const token = (number: number, name = 'a') => `${number}.${name.repeat(32)}`;
const ONE = { incarnation: 'one', address: '10.0.0.1', from: '192.0.2.1' };
const TWO = { incarnation: 'two', address: '10.0.0.2', from: '192.0.2.2' };

/** Sends a heartbeat to a replica, as the HTTP handler does. */
async function beat({ registry }: Replica, proof: Proof): Promise<void> {
  await registry.replicas.prepareHeartbeat('vm-1', proof);
  registry.heartbeat('vm-1', proof);
  await registry.replicas.claimIdentity('vm-1');
}

test('an agent whose heartbeats reach another replica each time is one incarnation, and a clone is refused by all', async () => {
  const { cluster, replicas, a, b, deliver, pass } = setUp(3);
  await a.registry.register(aVm());
  deliver();
  for (let n = 1; n < 10; n++) {
    pass(1000);
    await beat(replicas[n % 3]!, { ...ONE, ...(n > 1 ? { spend: token(n - 1) } : {}), next: token(n) });
  }
  for (const replica of replicas)
    await assert.rejects(beat(replica, { ...TWO, spend: token(5), next: token(6, 'b') }), {
      code: 'IDENTITY_CONFLICT',
    });
  pass(1000);
  await beat(b, { ...ONE, spend: token(9), next: token(10) });
  await b.registry.saveHeartbeats();
  deliver();
  assert.equal(a.registry.conflicts.all.length, 1, 'the conflict is on record on all replicas');
  // The owner dies with heartbeats that it has not written.
  await beat(b, { ...ONE, spend: token(10), next: token(11) });
  b.store.isDead = true;
  cluster.replicas.splice(cluster.replicas.indexOf(b.store), 1);
  pass(1000);
  await beat(a, { ...ONE, spend: token(11), next: token(12) });
  assert.equal(a.registry.conflicts.all.filter(({ state }) => state !== 'open').length, 0);
});

test('an import through a shared store reports the result of each VM', async () => {
  const { a, b, deliver } = setUp();
  await a.registry.register(aVm({ id: 'taken' }));
  const forEach = async <T>(items: readonly T[], act: (item: T) => void) => items.forEach(act);
  const entries = ['one', 'taken', 'two'].map((id, n) => ({
    ...aVm({ id }),
    registeredAt: new Date(Date.parse('2025-01-01') + n).toISOString(),
  }));
  const results = await b.registry.import(entries, { forEach });
  assert.deepEqual(
    results.map((result) => (result instanceof VregError ? result.code : result.id)),
    ['one', 'CONFLICT', 'two'],
  );
  deliver();
  assert.deepEqual(
    a.registry
      .list({})
      .map(({ id }) => id)
      .sort(),
    ['one', 'taken', 'two'],
  );
  assert.equal(a.registry.get('one').registeredAt, '2025-01-01T00:00:00.000Z');
});

test('other changes do not wait for an import through a shared store, and count its entries', async () => {
  const { cluster, a } = setUp();
  const limited = new Registry(
    { store: a.store, clock: a.clock, staleAfter: LEASE, limits: { maxVms: 4, maxEntry: 10_000 } },
    a.store.contents(),
  );
  const forEach = async <T>(items: readonly T[], act: (item: T) => void) => items.forEach(act);
  cluster.waiting = [];
  const imported = limited.import([aVm({ id: 'one' }), aVm({ id: 'two' })], { forEach });
  await new Promise(setImmediate);
  const registered = limited.register(aVm({ id: 'three' }));
  const taken = assert.rejects(limited.register(aVm({ id: 'one' })), { code: 'CONFLICT' });
  await assert.rejects(limited.register(aVm({ id: 'four' })), { code: 'TOO_MANY_REQUESTS' });
  await new Promise(setImmediate);
  cluster.execute(2);
  assert.equal((await registered).id, 'three');
  while (cluster.waiting.length > 0) {
    cluster.execute();
    await new Promise(setImmediate);
  }
  await taken;
  assert.equal((await imported).length, 2);
  assert.equal(limited.counts.vms, 3);
});

test('an import ends when the shared store stops responding', async () => {
  const { cluster, a } = setUp();
  const forEach = async <T>(items: readonly T[], act: (item: T) => void) => items.forEach(act);
  cluster.waiting = [];
  const entries = Array.from({ length: 100 }, (_, n) => aVm({ id: `vm-${n}` }));
  const imported = a.registry.import(entries, { forEach });
  await new Promise(setImmediate);
  cluster.execute();
  await new Promise(setImmediate);
  const sent = 1 + cluster.waiting.length;
  cluster.isAway = true;
  while (cluster.waiting.length > 0) {
    cluster.execute();
    await new Promise(setImmediate);
  }
  const results = await imported;
  const codes = results.map((result) => (result instanceof VregError ? result.code : 'created'));
  assert.deepEqual(codes, ['created', ...new Array(99).fill('STORE_FAILED')]);
  const unsent = results.filter((result) => /^not sent/.test((result as VregError).message ?? ''));
  assert.equal(unsent.length, 100 - sent);
  cluster.isAway = false;
  cluster.waiting = undefined;
  await a.registry.register(aVm({ id: 'vm-99' }));
});

test('an imported VM that is changed, removed or heard before its registration arrives is counted once', async () => {
  const { a, deliver } = setUp();
  const forEach = async <T>(items: readonly T[], act: (item: T) => void) => items.forEach(act);
  const imported = (id: string, silence: number) => ({
    ...aVm({ id }),
    lastSeen: new Date(a.clock.now() - silence).toISOString(),
  });
  const names = ['removed', 'updated', 'paused', 'heard'];
  const entries = names.flatMap((name) => [imported(`old-${name}`, 2 * LEASE), imported(`new-${name}`, 1000)]);
  await a.registry.import(entries, { forEach });
  assert.deepEqual(a.registry.counts, { vms: 8, live: 4, stale: 4, suspect: 0 });
  for (const age of ['old', 'new']) {
    await a.registry.deregister(`${age}-removed`);
    await a.registry.update(`${age}-updated`, { name: 'other' });
    await a.registry.update(`${age}-paused`, { status: 'paused' });
    a.registry.heartbeat(`${age}-heard`);
  }
  deliver();
  assert.deepEqual(a.registry.counts, { vms: 6, live: 3, stale: 1, suspect: 0 });
  const stale = a.events.filter((event) => event.startsWith('stale'));
  assert.deepEqual(
    stale.map((event) => event.split(' ')[1]),
    ['old-updated'],
  );
  for (const { id } of [...a.registry.list({})]) await a.registry.deregister(id);
  deliver();
  assert.deepEqual(a.registry.counts, { vms: 0, live: 0, stale: 0, suspect: 0 });
});

test('an imported VM becomes stale once if its lease ends before its registration arrives', async () => {
  const { a, deliver, pass } = setUp();
  const forEach = async <T>(items: readonly T[], act: (item: T) => void) => items.forEach(act);
  pass(LEASE);
  const lastSeen = new Date(a.clock.now() - LEASE + 1000).toISOString();
  await a.registry.import([{ ...aVm(), lastSeen }], { forEach });
  pass(2000);
  deliver();
  assert.deepEqual(a.events.map((event) => event.split(' ')[0]).sort(), ['registered', 'stale']);
});

type Step =
  | { do: 'register'; id: string; status: Status; on: number; name: string }
  | { do: 'replace'; id: string; status: Status; on: number; name: string }
  | { do: 'update'; id: string; status: Status; on: number; name: string; etag: 'none' | 'last' | 'old' }
  | { do: 'remove'; id: string; on: number }
  | { do: 'heartbeat'; id: string; on: number }
  | { do: 'deliver'; on: number; count: number }
  | { do: 'pass'; ms: number };

const id = fc.constantFrom('a', 'b', 'c');
const status = fc.constantFrom<Status>('running', 'paused');
const on = fc.nat(2);
const name = fc.constantFrom('x', 'y', 'z');
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('register' as const), id, status, on, name }),
  fc.record({ do: fc.constant('replace' as const), id, status, on, name }),
  fc.record({
    do: fc.constant('update' as const),
    id,
    status,
    on,
    name,
    etag: fc.constantFrom('none' as const, 'last' as const, 'old' as const),
  }),
  fc.record({ do: fc.constant('remove' as const), id, on }),
  fc.record({ do: fc.constant('heartbeat' as const), id, on }),
  fc.record({ do: fc.constant('deliver' as const), on, count: fc.nat(3) }),
  fc.record({ do: fc.constant('pass' as const), ms: fc.nat(2000) }),
);

/** Runs the same steps on replicas that lag, and on a registry with one writer. */
class Run {
  readonly cluster = new FakeCluster();
  readonly clock = new FakeClock();
  readonly replicas = [0, 1, 2].map(() => start(this.cluster, this.clock));
  readonly store = new MemoryStore();
  readonly single = new Registry({ store: this.store, clock: this.clock, staleAfter: LEASE }, this.store.contents());
  /** The ETags of each VM, oldest first. */
  readonly etags = new Map<string, { shared: string; single: string }[]>();

  async take(step: Step): Promise<void> {
    if (step.do === 'pass') return this.clock.pass(step.ms);
    const { registry, store } = this.replicas[step.on]!;
    if (step.do === 'deliver') return store.deliver(step.count);
    if (step.do === 'heartbeat') {
      // A heartbeat waits for a VM that this replica does not know.
      await registry.replicas.awaitVm(step.id);
      const act = async (each: Registry) => ({ body: each.heartbeat(step.id).heartbeatJson });
      // A removal may not have arrived; then the heartbeat has no effect that lasts.
      if (this.single.has(step.id)) await this.compare(step.id, act(registry), act(this.single));
      return;
    }
    const write = async (each: Registry, kind: 'shared' | 'single'): Promise<unknown> => {
      if (step.do === 'remove') return each.deregister(step.id);
      const vm = { name: step.name, status: step.status };
      if (step.do === 'register') return each.register(aVm({ id: step.id, ...vm }));
      if (step.do === 'replace') return each.replace(aVm({ id: step.id, ...vm })).then(({ entry }) => entry);
      const known = this.etags.get(step.id) ?? [];
      const etag = step.etag === 'none' ? undefined : known.at(step.etag === 'last' ? -1 : -2);
      return each.update(step.id, vm, etag ? { expect: [etag[kind]] } : {});
    };
    await this.compare(step.id, write(registry, 'shared'), write(this.single, 'single'));
  }

  async compare(id: string, shared: Promise<unknown>, single: Promise<unknown>): Promise<void> {
    const [one, two] = await Promise.allSettled([shared, single]);
    assert.equal(describe(one), describe(two));
    if (one.status !== 'fulfilled' || two.status !== 'fulfilled') return;
    const positions = [one.value, two.value].map((value) => (value as { position?: string }).position);
    const [sharedEtag, singleEtag] = positions;
    if (sharedEtag === undefined || singleEtag === undefined) return;
    this.etags.set(id, [...(this.etags.get(id) ?? []), { shared: sharedEtag, single: singleEtag }]);
  }

  finish(): void {
    for (const { store, registry, events } of this.replicas) {
      store.deliver();
      assert.deepEqual(
        registry.list({}).map(({ body }) => body),
        this.single.list({}).map(({ body }) => body),
      );
      assert.equal(registry.positions.current, this.replicas[0]!.registry.positions.current);
      assert.deepEqual(changesOf(events), changesOf(this.replicas[0]!.events));
    }
    assert.deepEqual(
      changesOf(this.replicas[0]!.events).map((event) => event.replace(/ \d+$/, '')),
      this.store.journal.map(({ id, item }) => `${item.type} ${id}`),
    );
  }
}

function changesOf(events: readonly string[]): string[] {
  return events.filter((event) => !/^(stale|suspect|revived|conflict) /.test(event));
}

function describe(result: PromiseSettledResult<unknown>): string {
  if (result.status === 'rejected') return `${result.reason.code ?? result.reason}`;
  const { body } = result.value as { body?: string };
  return body ?? 'done';
}

test('replicas that lag answer every request as a registry with one writer', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const run = new Run();
      for (const step of steps) await run.take(step);
      run.finish();
    }),
    { numRuns: 150 },
  );
});
