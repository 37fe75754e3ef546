/** The session of a replica against real clusters: its lease, its fence, and clusters without space. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { ReplicaSession, type SessionState } from '../../daemon/store/etcd/replica-session.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { openClient, openReplica, PREFIX } from '../helpers/etcd-replica.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();

async function openSession(
  t: TestContext,
  client: EtcdClient,
  ttl: number,
): Promise<{ session: ReplicaSession; states: SessionState[] }> {
  const states: SessionState[] = [];
  const session = new ReplicaSession(client, {
    key: `${PREFIX}replica/r1`,
    ttl,
    details: { name: 'r1' },
    onChange: (state) => states.push(state),
  });
  t.after(() => session.close());
  await session.open();
  return { session, states };
}

const putOnce = (key: string, value: string) => ({
  compares: [{ key, createRevision: 0 }],
  success: [{ type: 'put' as const, key, value }],
});

test(
  'the key of a session has its lease and its fence, is renewed, and goes when the session is closed',
  options,
  async (t) => {
    const cluster = await startCluster(t, { members: 1 });
    const client = await openClient(t, cluster.endpoints);
    // Shorter than etcd's minimum, which is 2 s for this election timeout.
    const { session, states } = await openSession(t, client, 1);
    const [kv] = (await client.range({ key: session.key })).kvs;
    assert.equal(kv?.value.toString(), session.fence);
    assert.equal(kv?.lease, session.lease);
    assert.equal(JSON.parse(session.fence).name, 'r1');
    assert.equal(session.state, 'open');
    // Three times to live, during which it is only renewed.
    const { header } = await client.range({ key: 'x' });
    const renewedUntil = performance.now() + 6000;
    await until('the lease would have expired', () => performance.now() > renewedUntil);
    assert.equal((await client.range({ key: session.key })).header.revision, header.revision);
    await session.close();
    assert.deepEqual((await client.range({ key: session.key })).kvs, []);
    assert.deepEqual(states, ['open', 'closed']);
    await assert.rejects(session.current(1000), { kind: 'unavailable' });
  },
);

test('a new fence makes transactions with the old one fail', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const client = await openClient(t, cluster.endpoints);
  const { session } = await openSession(t, client, 30);
  const old = await session.current(1000);
  const [first, second] = await Promise.all([session.invalidate(old, 1000), session.invalidate(old, 1000)]);
  assert.equal(first, second, 'concurrent calls share one put');
  assert.notEqual(session.fence, old);
  const { succeeded } = await client.txn([{ key: session.key, value: old }], [{ type: 'put', key: '/x', value: 'x' }]);
  assert.equal(succeeded, false);
  assert.equal(await session.invalidate(old, 1000), first, 'it is invalid already');
});

test(
  'a session whose lease has expired opens again, and transactions in between are executed once',
  options,
  async (t) => {
    const cluster = await startCluster(t, { members: 1 });
    const { client, session, transactions, view } = await openReplica(t, cluster.endpoints);
    await client.revokeLease(session.lease);
    const old = session.fence;
    const outcomes = await Promise.all(
      [1, 2, 3].map((id) => transactions.commit(putOnce(`${PREFIX}vm/${id}`, `write-${id}`))),
    );
    assert.ok(outcomes.every(({ applied }) => applied));
    assert.equal(session.state, 'open');
    assert.notEqual(session.fence, old);
    await client.revokeLease(session.lease);
    const revision = await transactions.barrier();
    assert.ok(view.informer.revision >= revision);
    assert.equal(view.values.get(session.key), session.fence);
  },
);

test('a transaction that fails while a lost session opens again does not lose its new lease', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const client = await openClient(t, cluster.endpoints);
  const { session } = await openSession(t, client, 30);
  const old = session.fence;
  await client.revokeLease(session.lease);
  const { put } = client;
  client.put = (...args) => {
    // The answer to another transaction that was sent with the old fence.
    session.fenceFailed(old, true);
    return put.apply(client, args);
  };
  session.fenceFailed(old, true);
  assert.notEqual(await session.current(5000), old);
  assert.equal(session.state, 'open');
  const [kv] = (await client.range({ key: session.key })).kvs;
  assert.ok(kv!.lease > 0n);
  assert.equal(session.lease, kv!.lease);
});

test('a replica that was away for longer than its lease gets a new session', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const client = await openClient(t, cluster.endpoints);
  const { session, states } = await openSession(t, client, 2);
  const old = session.fence;
  await client.revokeLease(session.lease);
  await until('the session opens again', () => session.state === 'open' && session.fence !== old);
  assert.deepEqual(states, ['open', 'lost', 'open']);
  const [kv] = (await client.range({ key: session.key })).kvs;
  assert.equal(kv?.value.toString(), session.fence);
});

test('without space, puts fail, deletions and reads work, and the session survives', options, async (t) => {
  // Two pages of bolt more than an empty database.
  const cluster = await startCluster(t, { flags: ['--quota-backend-bytes=2097152'] });
  const { client, session, transactions, view } = await openReplica(t, cluster.endpoints, 'r1', 3);
  const key = `${PREFIX}vm/1`;
  const { revision } = await transactions.commit(putOnce(key, 'write-1'));
  const large = 'x'.repeat(300_000);
  const fill = async () => {
    for (let number = 0; ; number++) await client.put(`/fill/${number}`, large);
  };
  await assert.rejects(fill(), { kind: 'no-space' });
  await until('the alarm reaches all members', async () => (await client.alarms()).length > 0);
  await assert.rejects(transactions.commit(putOnce(`${PREFIX}vm/2`, 'write-2')), { kind: 'no-space' });
  const fence = session.fence;
  const removed = await transactions.commit({
    compares: [{ key, modRevision: revision }],
    success: [{ type: 'delete', key }],
  });
  assert.ok(removed.applied);
  await transactions.barrier();
  assert.equal(view.values.has(key), false);
  // Longer than its lease: renewals need no space.
  const expired = performance.now() + 4000;
  await until('the lease would have expired', () => performance.now() > expired);
  assert.equal(session.fence, fence);
  // The three steps of a recovery. Without the last one, puts still fail.
  await client.delete('/fill/', '/fill0');
  const { header } = await client.range({ key: 'x' });
  await client.compact(header.revision);
  for (const endpoint of cluster.endpoints) await client.defragment(endpoint);
  await assert.rejects(transactions.commit(putOnce(`${PREFIX}vm/2`, 'write-2')), { kind: 'no-space' });
  for (const alarm of await client.alarms()) await client.disarm(alarm);
  assert.deepEqual(await client.alarms(), []);
  assert.ok((await transactions.commit(putOnce(`${PREFIX}vm/2`, 'write-2'))).applied);
  await transactions.barrier();
});
