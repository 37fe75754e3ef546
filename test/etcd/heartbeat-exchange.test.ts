/** How a replica adopts the heartbeats of one that has ended. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { EtcdKeys } from '../../daemon/store/etcd/etcd-keys.ts';
import { Replicas } from '../../daemon/store/etcd/etcd-view.ts';
import { HeartbeatExchange, LAST_FLUSH } from '../../daemon/store/etcd/heartbeat-exchange.ts';
import { decodeShard, HeartbeatShards, hashOfVm } from '../../daemon/store/etcd/heartbeat-shards.ts';
import { prefixEnd } from '../../daemon/store/etcd/messages.ts';
import { endAfter } from '../helpers/daemon.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { openReplica } from '../helpers/etcd-replica.ts';
import { until } from '../helpers/until.ts';

/** Milliseconds after which a replica that has ended is adopted, and more. */
const LONG = 100_000;

test('heartbeats that a suspended replica writes while they are adopted are not lost', {
  ...unlessEtcd(),
  timeout: 120_000,
}, async (t) => {
  const { endpoints } = await startCluster(t, { members: 1 });
  const { client, session } = await openReplica(t, endpoints, 'a');
  const keys = new EtcdKeys('/t/');
  const heartbeatsOf = (replica: string) => `${keys.heartbeats}${replica}/`;
  const range = client.range.bind(client);
  const read = (replica: string) => {
    const key = heartbeatsOf(replica);
    return range({ key, rangeEnd: prefixEnd(key) });
  };
  /** Writes what the suspended replica `b` has received. */
  const flush = async (lastSeen: number) => {
    const shards = new HeartbeatShards();
    shards.add(hashOfVm('vm-1', 1), lastSeen);
    for (const { shard, blob } of shards.take()) await client.put(`${heartbeatsOf('b')}${shard}`, blob);
    await client.put(`${heartbeatsOf('b')}${LAST_FLUSH}`, String(lastSeen));
  };
  const first = Date.parse('2026-01-01T00:00:00.000Z');
  const second = first + 60_000;
  await flush(first);
  await client.put(keys.request('b', 'vm-1'), 'a');
  await client.put(keys.request('bb', 'vm-1'), 'a');

  let now = first;
  const replicas = new Replicas(keys);
  replicas.put(keys.replica('a'), Buffer.from('{}'));
  const exchange = new HeartbeatExchange(client, session, keys, {
    replica: 'a',
    replicas,
    interval: 1000,
    onProblem: () => {},
    now: () => now,
  });
  endAfter(t, async () => exchange.stop());
  exchange.addVm('vm-1', 1);
  await exchange.open([]);
  const timers = t.mock.method(globalThis, 'setInterval');
  exchange.follow(() => {});
  const ticks = timers.mock.calls.map((call) => call.arguments[0]);
  timers.mock.restore();
  let reads = 0;
  client.range = async (...args) => {
    const answer = await range(...args);
    if (args[0].key === heartbeatsOf('b') && reads++ === 0) await flush(second);
    return answer;
  };
  now += LONG;
  await until('the heartbeats of the ended replica to be adopted', async () => {
    for (const tick of ticks) tick();
    return (await read('b')).kvs.length === 0;
  });
  const { kvs } = await read('a');
  const times = kvs.filter(({ key }) => !key.endsWith(LAST_FLUSH)).flatMap(({ value }) => [...decodeShard(value)]);
  assert.deepEqual(times, [{ hash: hashOfVm('vm-1', 1), lastSeen: second }]);
  const requests = await range({ key: `${keys.state}request/`, rangeEnd: prefixEnd(`${keys.state}request/`) });
  assert.deepEqual(
    requests.kvs.map(({ key }) => key),
    [keys.request('bb', 'vm-1')],
    'requests that the ended replica has not answered are removed',
  );
});
