/** When a VM becomes stale with several replicas: only if none of them heard it for a lease in which one could have heard it. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { cutProxy, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { type EtcdReplica, SharedTime, startReplica } from '../helpers/etcd-registry.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const LEASE = 300_000;
/** The interval of heartbeats for this lease, and two flushes: nothing expires for that long after heartbeats may have been missed. */
const GRACE = 62_000;
const options = { ...unlessEtcd(), timeout: 120_000 };

const live = ({ registry }: EtcdReplica) => registry.discover('worker').map(({ vm }) => vm.id);

/** Waits until what other replicas write does, or does not, arrive. */
const currency = (replica: EtcdReplica, isCurrent: boolean) =>
  until(isCurrent ? 'etcd to confirm the view' : 'the outage to be noticed', () => {
    return (replica.store.replication.age() === 0) === isCurrent;
  });

/** Two replicas that know one VM. */
async function pair(t: TestContext, endpoints: readonly (readonly string[])[], massLoss?: number) {
  const time = new SharedTime();
  const more = { time, ...(massLoss === undefined ? {} : { massLoss }) };
  const replicas = await Promise.all(endpoints.map((of) => startReplica(t, of, '/vreg/v1/', more)));
  const [a, b] = replicas as [EtcdReplica, EtcdReplica];
  // Past the first interval of each.
  time.pass(GRACE);
  await a.registry.register(aVm());
  await b.registry.replicas.catchUp();
  return { time, a, b };
}

/** A heartbeat through one replica, which arrives at the other one. */
async function heard(id: string, through: EtcdReplica, other: EtcdReplica): Promise<void> {
  const { lastSeen } = through.registry.heartbeat(id);
  await through.registry.saveHeartbeats();
  const seconds = 1000 * Math.floor(Date.parse(lastSeen) / 1000);
  await until('the heartbeat on the other replica', () => other.registry.get(id).seen.lastSeen >= seconds);
}

test(
  'a VM that one replica hears is live on both, and stale on both one lease after the last heartbeat',
  options,
  async (t) => {
    const { endpoints } = await startCluster(t, { members: 1 });
    const { time, a, b } = await pair(t, [endpoints, endpoints]);
    for (let n = 0; n < 3; n++) {
      time.pass(LEASE - 2000);
      await heard('vm-1', n % 2 ? a : b, n % 2 ? b : a);
      assert.deepEqual([live(a), live(b)], [['vm-1'], ['vm-1']]);
    }
    time.pass(LEASE + 2000);
    assert.deepEqual([live(a), live(b)], [[], []]);
  },
);

test('nothing expires during an outage of etcd, nor in the interval after it', options, async (t) => {
  const {
    endpoints,
    members: [member],
  } = await startCluster(t, { members: 1 });
  const { time, a, b } = await pair(t, [endpoints, endpoints]);
  time.pass(LEASE - 2000);
  const gaps = [a, b].map(({ registry }) => registry.clock.lastGap());
  member!.freeze();
  for (const replica of [a, b]) await currency(replica, false);
  time.pass(10 * LEASE);
  assert.deepEqual([live(a), live(b)], [['vm-1'], ['vm-1']]);
  member!.thaw();
  for (const replica of [a, b]) await currency(replica, true);
  // Each replica also waits for the heartbeats that the other one could not flush.
  await until('the lease of both to run again', () =>
    [a, b].every(({ registry }, n) => registry.clock.lastGap() !== gaps[n]),
  );
  time.pass(GRACE - 2000);
  assert.deepEqual([live(a), live(b)], [['vm-1'], ['vm-1']], 'its heartbeat may still arrive');
  await heard('vm-1', a, b);
  time.pass(LEASE - 2000);
  assert.deepEqual([live(a), live(b)], [['vm-1'], ['vm-1']]);
  time.pass(4000);
  assert.deepEqual([live(a), live(b)], [[], []]);
});

test('nothing expires while etcd has no space for the heartbeats of another replica', options, async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1, flags: ['--quota-backend-bytes=4194304'] });
  const { time, a, b } = await pair(t, [endpoints, endpoints]);
  await heard('vm-1', a, b);
  for (let n = 0; (await etcdctl('alarm', 'list')) === ''; n++)
    await etcdctl('put', `/filler/${n}`, 'x'.repeat(100_000)).catch(() => {});
  const isMissing = ({ problems }: EtcdReplica) => problems.some((text) => /heartbeats of other replicas/.test(text));
  await until('both to notice that heartbeats are missing', () => isMissing(a) && isMissing(b));
  time.pass(10 * LEASE);
  assert.deepEqual([live(a), live(b)], [['vm-1'], ['vm-1']]);
  assert.deepEqual([a.store.replication.age(), b.store.replication.age()], [0, 0], 'changes do arrive');
  await etcdctl('del', '--prefix', '/filler/');
  const { header } = JSON.parse(await etcdctl('get', '/none', '-w', 'json')) as { header: { revision: number } };
  await etcdctl('compact', String(header.revision));
  await etcdctl('defrag');
  await etcdctl('alarm', 'disarm');
  await heard('vm-1', a, b);
  await until('the lease to run again', () => {
    time.pass(GRACE + LEASE);
    return live(b).length === 0;
  });
});

test('a replica that was suspended does not report that heartbeats of others are missing', options, async (t) => {
  const { endpoints } = await startCluster(t, { members: 1 });
  const proxy = await cutProxy(t, endpoints[0]!);
  const [a] = await Promise.all(
    [[proxy.endpoint], endpoints].map((of) => startReplica(t, of, '/vreg/v1/', { flushInterval: 60_000 })),
  );
  await until('the other replica', () => a!.registry.replicas.all!.length === 2);
  const now = performance.now.bind(performance);
  let suspended = 0;
  t.mock.method(performance, 'now', () => now() + suspended);
  // The second time, it was certainly waiting for a flush of the other one.
  for (let n = 0; n < 2; n++) {
    // A message that arrives before the replica notices the suspension would hide it.
    proxy.hold();
    suspended += 600_000;
    await currency(a!, false);
    proxy.release();
    await currency(a!, true);
  }
  assert.deepEqual(
    a!.problems.filter((text) => /heartbeats of other replicas/.test(text)),
    [],
  );
});

test('nothing expires in the interval after a replica has read the list again', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const { time, a, b } = await pair(t, [cluster.endpoints, [proxy.endpoint]]);
  time.pass(LEASE - 2000);
  const gap = b.registry.clock.lastGap();
  proxy.hold();
  // Heartbeats and changes that this replica misses, and cannot read later.
  await a.registry.register(aVm({ id: 'vm-2' }));
  await a.registry.deregister('vm-2');
  const { header } = JSON.parse(await cluster.etcdctl('get', '/none', '-w', 'json')) as {
    header: { revision: number };
  };
  await cluster.etcdctl('compact', String(header.revision));
  proxy.release();
  proxy.cut();
  const { revision } = a.registry.positions.latest;
  await until('the list on the replica that was away', () => b.registry.positions.latest.revision >= revision);
  await until('the replica to notice that it has missed heartbeats', () => b.registry.clock.lastGap() !== gap);
  await currency(b, true);
  time.pass(GRACE - 2000);
  assert.deepEqual(live(b), ['vm-1']);
});

test(
  'a replica that starts lets nothing expire in its first interval, nor counts time in which none was running',
  options,
  async (t) => {
    const { endpoints } = await startCluster(t, { members: 1 });
    const { time, a, b } = await pair(t, [endpoints, endpoints]);
    time.pass(LEASE - 2000);
    assert.deepEqual(live(a), ['vm-1']);
    await Promise.all([a.close(), b.close()]);
    time.pass(10 * LEASE);
    const c = await startReplica(t, endpoints, '/vreg/v1/', { time });
    assert.deepEqual(live(c), ['vm-1']);
    time.pass(GRACE - 2000);
    assert.deepEqual(live(c), ['vm-1'], 'its heartbeat may still arrive');
    time.pass(LEASE);
    assert.deepEqual(live(c), []);
  },
);

test('another replica adopts the heartbeats of one that has ended', options, async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1 });
  const { time, a, b } = await pair(t, [endpoints, endpoints]);
  time.pass(10_000);
  await heard('vm-1', a, b);
  const { lastSeen } = b.registry.get('vm-1').seen;
  await a.close();
  const writers = async () => {
    const keys = (await etcdctl('get', '--prefix', '--keys-only', '/vreg/v1/hb/')).split('\n').filter(Boolean);
    return new Set(keys.map((key) => key.split('/')[4]));
  };
  await until('the last flush of both', async () => (await writers()).size === 2);
  await until(
    'the heartbeats of one replica only',
    async () => {
      time.pass(30_000);
      return (await writers()).size === 1;
    },
    60_000,
  );
  await b.close();
  const c = await startReplica(t, endpoints, '/vreg/v1/', { time });
  assert.equal(c.registry.get('vm-1').seen.lastSeen, lastSeen);
});

test('after a mass loss both replicas offer the VMs as suspect for one more lease', options, async (t) => {
  const { endpoints } = await startCluster(t, { members: 1 });
  const { time, a, b } = await pair(t, [endpoints, endpoints], 0.5);
  for (let n = 2; n <= 12; n++) await a.registry.register(aVm({ id: `vm-${n}` }));
  await b.registry.replicas.catchUp();
  time.pass(LEASE + 2000);
  for (const replica of [a, b]) {
    assert.equal(live(replica).length, 12);
    assert.equal(replica.registry.livenessOf(replica.registry.get('vm-5')), 'suspect');
  }
  await heard('vm-5', b, a);
  for (const { registry } of [a, b]) assert.equal(registry.livenessOf(registry.get('vm-5')), 'live');
  time.pass(LEASE - 4000);
  assert.deepEqual([live(a).length, live(b).length], [12, 12]);
  await heard('vm-5', a, b);
  time.pass(6000);
  assert.deepEqual([live(a), live(b)], [['vm-5'], ['vm-5']]);
});
