/** Fenced transactions against real clusters with faults: no acknowledged change is lost, repeated or undone. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { EtcdError } from '../../daemon/store/etcd/etcd-error.ts';
import { type Outcome, Transactions, type Write } from '../../daemon/store/etcd/transaction.ts';
import { type Cluster, cutProxy, type EtcdMember, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { openClient, openReplica, PREFIX, type Replica, startView } from '../helpers/etcd-replica.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();
/** Long enough for an election on a busy machine. */
const PATIENT = { timeoutMs: 60_000 };
/** VMs that a fault hits at once. */
const VMS = 40;

const keyOf = (id: number | string) => `${PREFIX}vm/${id}`;

/** Creates a key. @param writeId makes the value unique */
function create(
  transactions: Transactions,
  id: number | string,
  writeId: string,
  time: { timeoutMs?: number } = PATIENT,
): Promise<Outcome> {
  const key = keyOf(id);
  const write: Write = {
    compares: [{ key, createRevision: 0 }],
    success: [{ type: 'put', key, value: writeId }],
    failure: [{ type: 'range', key }],
  };
  return transactions.commit(write, time);
}

function remove(
  transactions: Transactions,
  id: number | string,
  revision: number,
  time: { timeoutMs?: number } = PATIENT,
): Promise<Outcome> {
  const key = keyOf(id);
  const write: Write = {
    compares: [{ key, modRevision: revision }],
    success: [{ type: 'delete', key }],
    failure: [{ type: 'range', key }],
  };
  return transactions.commit(write, time);
}

/** The create of a client that takes every failure for "not executed". */
async function naiveCreate(client: EtcdClient, id: number): Promise<'created' | 'conflict'> {
  const key = keyOf(id);
  for (;;) {
    try {
      const { succeeded } = await client.txn(
        [{ key, createRevision: 0 }],
        [{ type: 'put', key, value: `naive-${id}` }],
      );
      return succeeded ? 'created' : 'conflict';
    } catch (error) {
      if (!(error instanceof EtcdError) || error.kind !== 'unknown') throw error;
    }
  }
}

const ids = Array.from({ length: VMS }, (_, index) => index);

/** A client, or replica, whose first member will be frozen, and one that only uses the others. */
async function setUp(
  t: TestContext,
): Promise<{ cluster: Cluster; frozen: EtcdMember; order: string[]; other: EtcdClient }> {
  const cluster = await startCluster(t);
  const [frozen] = await cluster.followers();
  const others = cluster.endpoints.filter((endpoint) => endpoint !== frozen!.endpoint);
  return { cluster, frozen: frozen!, order: [frozen!.endpoint, ...others], other: await openClient(t, others) };
}

/** Waits until a member that was thawed has executed the requests in its sockets. */
async function executeQueue(t: TestContext, client: EtcdClient, member: EtcdMember): Promise<void> {
  const direct = await openClient(t, [member.endpoint]);
  await until('the member answers', () =>
    direct.range({ key: 'x' }).then(
      () => true,
      () => false,
    ),
  );
  // On the connection that has the old requests as well as on a new one.
  for (let turn = 0; turn < 50; turn++) {
    await client.range({ key: 'x' }, { endpoint: member.endpoint });
    await direct.range({ key: 'x' });
  }
}

test(
  'a naive client resurrects VMs: a frozen member executes their creates after their deletion',
  options,
  async (t) => {
    let resurrected = 0;
    // Chance decides which requests a member executes that has also received their cancellation.
    for (let round = 0; round < 5 && resurrected === 0; round++) {
      const { frozen, order, other } = await setUp(t);
      const client = await openClient(t, order);
      await client.range({ key: 'x' });
      frozen.freeze();
      assert.deepEqual(new Set(await Promise.all(ids.map((id) => naiveCreate(client, id)))), new Set(['created']));
      for (const id of ids) await other.delete(keyOf(id));
      frozen.thaw();
      await executeQueue(t, client, frozen);
      resurrected = (await other.range({ key: PREFIX, rangeEnd: `${PREFIX}~` })).count;
    }
    assert.ok(resurrected > 0);
  },
);

test('no VM is resurrected by a frozen member, whose transactions have an old fence', options, async (t) => {
  for (let round = 0; round < 2; round++) {
    const { frozen, order, other } = await setUp(t);
    const { client, transactions, view, session } = await openReplica(t, order);
    frozen.freeze();
    const startedAt = performance.now();
    const created = await Promise.all(ids.map((id) => create(transactions, id, `write-${id}`)));
    const stalled = performance.now() - startedAt;
    assert.ok(created.every(({ applied }) => applied));
    t.diagnostic(`creates through a frozen member took ${Math.round(stalled)} ms`);
    const removed = await Promise.all(created.map(({ revision }, id) => remove(transactions, id, revision)));
    assert.ok(removed.every(({ applied }) => applied));
    frozen.thaw();
    await executeQueue(t, client, frozen);
    const { kvs } = await other.range({ key: PREFIX, rangeEnd: `${PREFIX}~` });
    assert.deepEqual(
      kvs.map(({ key }) => key),
      [session.key],
    );
    await transactions.barrier();
    assert.equal(view.values.size, 2, 'the session and its barrier');
  }
});

test('a create whose answer was lost is reported as done, and not as a conflict with itself', options, async (t) => {
  const cluster = await startCluster(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const replica = await openReplica(t, [proxy.endpoint, ...cluster.endpoints.slice(1)]);
  // The members execute the transactions, but their answers are held back, and so are the events.
  proxy.hold();
  const creates = ids.map((id) => create(replica.transactions, id, `write-${id}`));
  const outcomes = await Promise.all(creates);
  assert.deepEqual(new Set(outcomes.map(({ applied }) => applied)), new Set([true]));
  const { kvs } = await replica.client.range({ key: keyOf(''), rangeEnd: `${PREFIX}vm~` });
  assert.deepEqual(
    kvs.map(({ value, version, modRevision }) => [value.toString(), version, modRevision]).sort(),
    outcomes.map(({ revision }, id) => [`write-${id}`, 1, revision]).sort(),
  );
});

test('a naive client takes its own create for a conflict', options, async (t) => {
  const cluster = await startCluster(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const client = await openClient(t, [proxy.endpoint, ...cluster.endpoints.slice(1)]);
  await client.range({ key: 'x' });
  proxy.hold();
  const outcomes = await Promise.all(ids.map((id) => naiveCreate(client, id)));
  assert.ok(outcomes.includes('conflict'));
});

test('a deletion whose answer was lost is reported as done', options, async (t) => {
  const cluster = await startCluster(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const { transactions } = await openReplica(t, [proxy.endpoint, ...cluster.endpoints.slice(1)]);
  const created = await Promise.all(ids.map((id) => create(transactions, id, `write-${id}`)));
  proxy.hold();
  const removed = await Promise.all(created.map(({ revision }, id) => remove(transactions, id, revision)));
  assert.deepEqual(new Set(removed.map(({ applied }) => applied)), new Set([true]));
});

for (const mayMove of [true, false]) {
  const outcome = mayMove ? 'done when the view knows it' : 'unknown if the view does not learn of it';
  test(
    `a deletion of a key that has not arrived in the view, whose answer was lost, is ${outcome}`,
    options,
    async (t) => {
      const cluster = await startCluster(t);
      const [first, ...others] = cluster.endpoints;
      const [watched, written] = [await cutProxy(t, first!), await cutProxy(t, first!)];
      const { session, client } = await openReplica(t, [written.endpoint, ...others]);
      const { informer } = await startView(t, await openClient(t, [watched.endpoint, ...(mayMove ? others : [])]));
      const transactions = new Transactions(client, session, informer);
      t.after(() => transactions.close());
      watched.hold();
      const { revision } = await create(transactions, 1, 'write-1');
      assert.ok(informer.revision < revision);
      written.hold();
      if (mayMove) assert.equal((await remove(transactions, 1, revision)).applied, true);
      else await assert.rejects(remove(transactions, 1, revision, {}), { kind: 'unknown' });
    },
  );
}

test('a compare that fails reports the current state, and only then', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const { transactions } = await openReplica(t, cluster.endpoints);
  const { revision } = await create(transactions, 1, 'first');
  const again = await create(transactions, 1, 'second');
  assert.ok(!again.applied);
  const [kv] = again.failure[0]!.kvs;
  assert.deepEqual([kv?.value.toString(), kv?.modRevision], ['first', revision]);
  const late = await remove(transactions, 1, revision - 1);
  assert.equal(late.applied, false);
  assert.ok((await remove(transactions, 1, revision)).applied);
  const absent = await remove(transactions, 1, revision);
  assert.deepEqual(!absent.applied && absent.failure[0]!.kvs, []);
});

test('exactly one of concurrent creates through three replicas is done', options, async (t) => {
  const cluster = await startCluster(t);
  const replicas: Replica[] = [];
  for (const name of ['r1', 'r2', 'r3']) replicas.push(await openReplica(t, cluster.endpoints, name));
  for (let id = 0; id < 20; id++) {
    const outcomes = await Promise.all(
      replicas.map(({ transactions }, index) => create(transactions, id, `${index}-${id}`)),
    );
    assert.equal(outcomes.filter(({ applied }) => applied).length, 1);
  }
});

test(
  'without a majority, a change fails in time with an unknown outcome and later ones as unavailable',
  options,
  async (t) => {
    const cluster = await startCluster(t);
    const { transactions, view } = await openReplica(t, cluster.endpoints);
    await create(transactions, 'before', 'before');
    const [, second, third] = cluster.members;
    second!.freeze();
    third!.freeze();
    const startedAt = performance.now();
    await assert.rejects(create(transactions, 1, 'first', {}), { kind: 'unknown' });
    assert.ok(performance.now() - startedAt < 8000);
    // Its own fence must be replaced first, so that nothing is sent.
    await assert.rejects(create(transactions, 2, 'second', {}), { kind: 'unavailable' });
    second!.thaw();
    third!.thaw();
    await until('a change is possible again', () =>
      create(transactions, 3, 'third', {}).then(
        ({ applied }) => applied,
        () => false,
      ),
    );
    await transactions.barrier();
    assert.equal(view.values.has(keyOf(2)), false);
    // Nobody knows whether the first one was executed, but the view agrees with the cluster.
    const isThere = view.values.has(keyOf(1));
    assert.equal((await create(transactions, 1, 'again')).applied, !isThere);
  },
);

test('a killed leader stalls changes for an election, and each is done once', options, async (t) => {
  const cluster = await startCluster(t);
  const leader = await cluster.leader();
  const others = cluster.endpoints.filter((endpoint) => endpoint !== leader.endpoint);
  const { transactions, client, view } = await openReplica(t, [leader.endpoint, ...others]);
  const acknowledged: number[] = [];
  let longest = 0;
  let last = performance.now();
  let killed: Promise<void> | undefined;
  const pending = Array.from({ length: 2000 }, (_, id) => id);
  const work = async () => {
    for (let id = pending.shift(); id !== undefined; id = pending.shift()) {
      if (id === 500) killed = leader.kill();
      const { applied } = await create(transactions, id, `write-${id}`);
      assert.ok(applied, String(id));
      acknowledged.push(id);
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }
  };
  await Promise.all(Array.from({ length: 32 }, work));
  await killed;
  const { kvs } = await client.range({ key: keyOf(''), rangeEnd: `${PREFIX}vm~` });
  assert.equal(acknowledged.length, 2000);
  assert.equal(kvs.length, 2000);
  assert.ok(kvs.every(({ version }) => version === 1));
  await transactions.barrier();
  assert.equal([...view.values.keys()].filter((key) => key.startsWith(keyOf(''))).length, 2000);
  t.diagnostic(`the longest gap between two acknowledged creates was ${Math.round(longest)} ms`);
});
