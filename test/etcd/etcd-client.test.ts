/** The client of etcd against real clusters. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { parseEtcdUrl } from '../../daemon/store/etcd/etcd-url.ts';
import { prefixEnd } from '../../daemon/store/etcd/messages.ts';
import { type Cluster, startCluster, unlessEtcd } from '../helpers/etcd.ts';

const options = unlessEtcd();

async function connect(t: TestContext, { url }: Cluster): Promise<EtcdClient> {
  const client = await EtcdClient.open(parseEtcdUrl(url));
  t.after(() => client.close());
  return client;
}

test('each request of the client works with a real cluster', options, async (t) => {
  const cluster = await startCluster(t);
  const client = await connect(t, cluster);
  await client.checkServer('/vreg/v1/probe');
  const created = await client.txn(
    [{ key: '/a/1', createRevision: 0 }],
    [{ type: 'put', key: '/a/1', value: 'one' }],
    [{ type: 'range', key: '/a/1' }],
  );
  assert.ok(created.succeeded);
  const again = await client.txn(
    [{ key: '/a/1', createRevision: 0 }],
    [{ type: 'put', key: '/a/1', value: 'two' }],
    [{ type: 'range', key: '/a/1' }],
  );
  assert.equal(again.succeeded, false);
  const [found] = again.responses;
  assert.equal(found?.type === 'range' && found.kvs[0]?.value.toString(), 'one');
  const lease = await client.grantLease(30);
  await client.put('/a/2', Buffer.from([0, 255]), lease);
  const { kvs, count, more } = await client.range({ key: '/a/', rangeEnd: prefixEnd('/a/'), limit: 1 });
  assert.deepEqual([kvs.map(({ key }) => key), count, more], [['/a/1'], 2, true]);
  const [second] = (await client.range({ key: '/a/2' })).kvs;
  assert.deepEqual([second?.value, second?.lease, second?.version], [Buffer.from([0, 255]), lease, 1]);
  assert.equal(await client.renewLease(lease), 30);
  await client.revokeLease(lease);
  assert.equal(await client.renewLease(lease), 0);
  const { deleted, header } = await client.delete('/a/', prefixEnd('/a/'));
  assert.equal(deleted, 1);
  await client.compact(header.revision);
  await assert.rejects(client.range({ key: '/a/', revision: 1 }), { kind: 'compacted' });
  await assert.rejects(client.range({ key: '/a/', revision: header.revision + 1000 }), { kind: 'future' });
  const members = await client.members();
  assert.deepEqual(members.map(({ name }) => name).sort(), ['m0', 'm1', 'm2']);
  assert.deepEqual(await client.alarms(), []);
  const status = await client.status(cluster.endpoints[0]!);
  assert.ok(members.some(({ id }) => id === status.leader));
  assert.ok(status.dbSize > 0);
  await client.defragment(cluster.endpoints[0]!);
});
