import assert from 'node:assert/strict';
import test from 'node:test';
import { explain, summarize } from '../../../daemon/registry/explain.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import type { VmRecord } from '../../../daemon/registry/vm-record.ts';
import type { VmUpdate } from '../../../src/protocol/vm.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { embeddedOnly, openTestStore, reopen } from '../../helpers/test-store.ts';
import { aVm } from '../../helpers/vm.ts';

const STALE_AFTER = 300_000;
const NIGHT = 8 * 3_600_000;

async function setUp({ massLoss }: { massLoss?: number } = {}) {
  const clock = new FakeClock();
  let store = await openTestStore(() => clock.wall);
  const open = () => new Registry({ store, clock, staleAfter: STALE_AFTER, massLoss }, store.contents());
  const first = store;
  /** Starts again with what is durable. @param downFor milliseconds of the wall clock */
  const restart = async (downFor = 0) => {
    await store.close();
    clock.sleep(downFor);
    store = await reopen(store);
    return open();
  };
  return { store: first, clock, restart, registry: open() };
}

const idsOf = (entries: readonly VmRecord[]) => entries.map(({ vm }) => vm.id);

test('a new VM has the current time as registeredAt and lastSeen', async () => {
  const { registry, clock, store } = await setUp();
  const entry = await registry.register(aVm());
  const now = new Date(clock.wall).toISOString();
  assert.deepEqual(JSON.parse(entry.json), { ...aVm(), registeredAt: now, lastSeen: now });
  assert.equal(registry.get('vm-1'), entry);
  assert.equal(registry.list({}).length, 1);
  assert.equal(store.changes, 1);
});

test('registering a taken id is a conflict with the field and a hint', async () => {
  const { registry, store } = await setUp();
  await registry.register(aVm());
  await assert.rejects(registry.register(aVm({ name: 'two' })), {
    code: 'CONFLICT',
    message: 'VM already registered',
    field: 'id',
    hint: /vreg update/,
  });
  assert.equal(registry.get('vm-1').vm.name, 'one');
  assert.equal(store.changes, 1);
});

test('an unknown VM cannot be read, changed, removed or sent a heartbeat for', async () => {
  const { registry, store } = await setUp();
  const missing = { code: 'NOT_FOUND', message: 'VM not found', field: 'id' };
  assert.throws(() => registry.get('vm-1'), missing);
  assert.throws(() => registry.heartbeat('vm-1'), missing);
  await assert.rejects(registry.update('vm-1', { name: 'x' }), missing);
  await assert.rejects(registry.deregister('vm-1'), missing);
  assert.equal(store.changes, 0);
});

test('an update replaces the given fields, removes null fields, and leaves the others', async () => {
  const { registry, clock, store } = await setUp();
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
  assert.equal(store.changes, 3);
});

test('only status running is a sign of life: no other update moves lastSeen', async () => {
  const { registry, clock } = await setUp();
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

test('a heartbeat moves lastSeen, but neither the status nor the revision', async () => {
  const { registry, clock, store } = await setUp();
  await registry.register(aVm({ status: 'paused' }));
  clock.pass(1000);
  const entry = registry.heartbeat('vm-1');
  assert.equal(entry.lastSeen, new Date(clock.wall).toISOString());
  assert.equal(registry.get('vm-1').vm.status, 'paused');
  assert.equal(store.changes, 1);
});

test('a VM is stale one millisecond after its lease, not earlier', async () => {
  const { registry, clock } = await setUp();
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
  assert.equal(registry.get('vm-1').vm.status, 'running', 'time does not change the status');
  registry.heartbeat('vm-1');
  assert.deepEqual(idsOf(registry.discover('worker')), ['vm-1']);
});

test('setting the wall clock makes no VM stale and none live', async () => {
  const { registry, clock } = await setUp();
  await registry.register(aVm());
  clock.wall += 10 * STALE_AFTER;
  assert.deepEqual(idsOf(registry.discover('worker')), ['vm-1']);
  clock.heard += STALE_AFTER + 1;
  clock.wall -= 20 * STALE_AFTER;
  assert.deepEqual(registry.discover('worker'), []);
});

test('a wall clock that is set back changes no order and no lease, and entries show its time, even after a restart', async () => {
  const { registry, clock, restart, store } = await setUp();
  await registry.register(aVm({ id: 'first' }));
  clock.pass(10);
  clock.wall -= 86_400_000;
  await registry.register(aVm({ id: 'second' }));
  clock.pass(10);
  const shown = new Date(clock.wall).toISOString();
  assert.equal(registry.heartbeat('first').lastSeen, shown);
  await registry.update('second', { status: 'paused' });
  await registry.update('second', { status: 'running' });
  await registry.saveHeartbeats();
  for (const open of [() => registry, restart]) {
    const now = await open();
    assert.ok(now.get('second').vm.registeredAt < now.get('first').vm.registeredAt);
    assert.deepEqual(idsOf(now.list({})), ['second', 'first']);
    assert.deepEqual(idsOf(now.discover('worker')), ['first', 'second']);
    assert.equal(now.get('first').lastSeen, shown, 'the later sign of life, although its time is earlier');
    assert.deepEqual(
      (await now.history('second', 9)).map(({ revision }) => revision),
      [4, 3, 2].map((change) => store.revisionAt(change)),
    );
  }
  assert.equal(store.changes, 4);
  clock.pass(STALE_AFTER + 1);
  assert.deepEqual(registry.discover('worker'), []);
});

test('list is newest first and discover oldest first, regardless of later updates and heartbeats', async () => {
  const { registry, clock, restart } = await setUp();
  for (const id of ['a', 'b', 'c', 'd']) await registry.register(aVm({ id, role: id === 'c' ? 'infra' : 'worker' }));
  clock.pass(10);
  await registry.update('a', { name: 'renamed', status: 'running' });
  registry.heartbeat('b');
  await registry.deregister('d');
  await registry.register(aVm({ id: 'd' }));
  await registry.deregister('b');
  await registry.register(aVm({ id: 'b' }));
  await registry.saveHeartbeats();
  for (const open of [() => registry, restart]) {
    const it = await open();
    assert.deepEqual(idsOf(it.list({})), ['b', 'd', 'c', 'a']);
    assert.deepEqual(idsOf(it.list({ role: 'worker' })), ['b', 'd', 'a']);
    assert.deepEqual(idsOf(it.discover('worker')), ['a', 'd', 'b']);
    assert.deepEqual(idsOf(it.discover('infra')), ['c']);
    assert.deepEqual(it.discover('golden'), []);
  }
});

test('a status filter matches the declared status; an unknown role or status matches no VM', async () => {
  const { registry, clock } = await setUp();
  for (const status of ['running', 'paused', 'stopped'] as const) await registry.register(aVm({ id: status, status }));
  clock.pass(STALE_AFTER + 1);
  assert.deepEqual(idsOf(registry.list({ status: 'paused' })), ['paused'], 'only running VMs can be stale');
  assert.deepEqual(idsOf(registry.list({ status: 'stopped', role: 'worker' })), ['stopped']);
  assert.deepEqual(registry.list({ status: 'nonsense' }), []);
  assert.deepEqual(registry.list({ role: 'nonsense' }), []);
});

test('a restart loads the same entries, byte for byte', async () => {
  const { registry, clock, restart } = await setUp();
  await registry.register(aVm({ id: 'a', metadata: { text: '☃ 𝄞 "\\', deep: { list: [1, null, true] } } }));
  await registry.register(aVm({ id: 'b', services: [{ name: 's', port: 80, healthPath: '/x', extra: 1 }] }));
  // etcd stores heartbeats in seconds.
  clock.pass(5000);
  registry.heartbeat('a');
  await registry.saveHeartbeats();
  await registry.replicas.catchUp();
  const again = await restart();
  assert.equal(again.revision, registry.revision);
  assert.deepEqual(
    again.list({}).map(({ json }) => json),
    registry.list({}).map(({ json }) => json),
  );
});

test('after a restart a live VM stays live for the rest of its lease, and a stale VM stays stale', async () => {
  const { registry, clock, restart } = await setUp();
  await registry.register(aVm({ id: 'silent' }));
  clock.pass(STALE_AFTER);
  await registry.register(aVm({ id: 'live' }));
  clock.pass(1);
  await registry.saveHeartbeats();
  const again = await restart(NIGHT);
  assert.deepEqual(idsOf(again.discover('worker')), ['live']);
  clock.pass(STALE_AFTER - 1);
  assert.deepEqual(idsOf(again.discover('worker')), ['live']);
  clock.pass(1);
  assert.deepEqual(idsOf(again.discover('worker')), []);
});

test('the registry keeps only the reported health of services that the VM has', async () => {
  const { registry } = await setUp();
  const services = (...names: string[]) => ({ services: names.map((name) => ({ name, port: 80 })) });
  await registry.register(aVm(services('web')));
  const health = () => registry.health.of(registry.get('vm-1'));
  registry.heartbeat('vm-1', { health: { web: 'passing', later: 'passing' } });
  assert.deepEqual(health(), { web: 'passing' });
  await registry.update('vm-1', services('web', 'later'));
  assert.deepEqual(health(), { web: 'passing' }, 'until the next heartbeat reports it');
  await registry.update('vm-1', services('later'));
  await registry.update('vm-1', services('web', 'later'));
  assert.equal(health(), undefined);
  registry.heartbeat('vm-1', { health: { later: 'failing' } });
  assert.deepEqual(health(), { later: 'failing' });
});

test('a heartbeat without a proof cannot report the health of a VM that has a holder', async () => {
  const { registry } = await setUp();
  await registry.register(aVm({ services: [{ name: 'web', port: 80 }] }));
  const health = () => registry.health.of(registry.get('vm-1'));
  registry.heartbeat('vm-1', { incarnation: 'one', next: `1.${'a'.repeat(32)}`, health: { web: 'passing' } });
  registry.heartbeat('vm-1', { health: { web: 'failing' } });
  assert.deepEqual(health(), { web: 'passing' });
});

test('a change of role drops the health that was reported in the former role', async () => {
  const { registry } = await setUp();
  const vm = aVm({ role: 'infra', services: [{ name: 'web', port: 80 }] });
  await registry.register(vm);
  registry.heartbeat('vm-1', { health: { web: 'failing' } });
  await registry.replace({ ...vm, role: 'worker' });
  assert.equal(registry.health.of(registry.get('vm-1')), undefined);
});

test('a stored entry that violates the rules for ids and addresses remains readable, discover omits it, and why explains it', async () => {
  const { registry, restart } = await setUp();
  // The registry's callers check their input, so this stores what an older version accepted.
  await registry.register(aVm({ id: '-uhttp://evil.example' }));
  await registry.register(aVm({ id: 'bad', address: '-oProxyCommand=reboot' }));
  await registry.register(aVm({ id: 'url', address: 'http://10.0.0.1:3000/' }));
  for (const open of [() => registry, restart]) {
    const now = await open();
    assert.deepEqual(idsOf(now.list({})), ['url', 'bad', '-uhttp://evil.example']);
    assert.equal(now.get('bad').vm.address, '-oProxyCommand=reboot');
    assert.deepEqual(idsOf(now.discover('worker')), ['url']);
    assert.deepEqual(idsOf(now.discover('worker', { strict: true })), ['url']);
    const { offered, reasons, summary } = explain(now, now.get('bad'));
    assert.deepEqual([offered, reasons.map(({ code }) => code)], [false, ['invalid']]);
    assert.match(summary, /^discover worker does not offer bad: scripts could not use it safely: invalid address "-o/);
  }
  const again = await restart();
  await again.update('bad', { address: '10.0.0.2' });
  assert.deepEqual(idsOf(again.discover('worker')), ['bad', 'url']);
  await again.deregister('-uhttp://evil.example');
});

test('the state of the fleet in one line counts the stale and the suspect VMs that are declared running', async () => {
  const { registry, clock } = await setUp({ massLoss: 0.5 });
  assert.equal(summarize(registry), '0 VMs');
  await registry.register(aVm({ id: 'dead' }));
  assert.equal(summarize(registry), '1 VM');
  await registry.register(aVm({ id: 'paused', status: 'paused' }));
  clock.pass(STALE_AFTER + 1);
  assert.equal(summarize(registry), '2 VMs, 1 stale');
  for (let n = 0; n < 12; n++) await registry.register(aVm({ id: `vm-${n}` }));
  clock.pass(STALE_AFTER + 1);
  assert.equal(summarize(registry), '14 VMs, 1 stale, 12 suspect');
  registry.heartbeat('vm-0');
  await registry.update('vm-1', { status: 'stopped' });
  await registry.deregister('dead');
  assert.equal(summarize(registry), '13 VMs, 10 suspect');
});

test(
  'a VM whose lease expires during an import leaves discover before the import is complete',
  embeddedOnly('each entry of an import is a transaction'),
  async () => {
    const { registry, clock } = await setUp();
    await registry.register(aVm({ id: 'old', role: 'infra' }));
    const discovered = () => registry.liveSnapshot('worker').parts.flatMap(({ entries }) => idsOf(entries));
    const seenFor = (id: string, left: number) => ({
      ...aVm({ id, role: 'worker' }),
      lastSeen: new Date(clock.wall - STALE_AFTER + left).toISOString(),
    });
    const found: string[][] = [];
    // The last walk through the VMs makes them visible one by one.
    const forEach = async <T>(items: readonly T[], act: (item: T) => void) => {
      for (const item of items) {
        act(item);
        if (registry.has('late')) {
          found.push(discovered());
          clock.pass(2000);
          found.push(discovered());
        }
      }
    };
    await registry.import([seenFor('long', 200_000), seenFor('short', 1000), seenFor('late', 100_000)], { forEach });
    assert.deepEqual(found, [
      ['long', 'short', 'late'],
      ['long', 'late'],
    ]);
    assert.deepEqual(discovered(), ['long', 'late']);
  },
);
