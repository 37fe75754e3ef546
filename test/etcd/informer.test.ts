/** The view of a prefix against real clusters with faults. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { prefixEnd } from '../../daemon/store/etcd/messages.ts';
import { type Cluster, cutProxy, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { openClient, PREFIX, startView, type View } from '../helpers/etcd-replica.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();

/** Puts numbered keys, 64 in each transaction. @returns the revision of the last one */
async function putMany(client: EtcdClient, count: number, { from = 0, size = 100 } = {}): Promise<number> {
  let revision = 0;
  for (let first = 0; first < count; first += 64) {
    const ops = Array.from({ length: Math.min(64, count - first) }, (_, index) => ({
      type: 'put' as const,
      key: `${PREFIX}vm/${from + first + index}`,
      value: 'x'.repeat(size),
    }));
    revision = (await client.txn([], ops)).header.revision;
  }
  return revision;
}

/** Puts numbered keys one by one, so that each has a revision. */
async function putEach(client: EtcdClient, count: number, from = 0): Promise<void> {
  const next = Array.from({ length: count }, (_, index) => from + index);
  const work = async () => {
    for (let number = next.shift(); number !== undefined; number = next.shift())
      await client.put(`${PREFIX}vm/${number}`, String(number));
  };
  await Promise.all(Array.from({ length: 32 }, work));
}

/** Asserts that the view equals the store, that its events are in order, and that no event is missing. */
async function assertExact(client: EtcdClient, view: View): Promise<void> {
  const { kvs } = await client.range({ key: PREFIX, rangeEnd: prefixEnd(PREFIX) });
  const last = Math.max(...kvs.map(({ modRevision }) => modRevision));
  await view.informer.waitFor(last, 15_000);
  assert.deepEqual([...view.values].sort(), kvs.map(({ key, value }) => [key, value.toString()]).sort());
  const revisions = view.events.map((event) => Number(event.split(' ')[2]));
  assert.deepEqual(
    revisions,
    [...revisions].sort((a, b) => a - b),
  );
  assert.equal(new Set(view.events).size, view.events.length, 'each event once');
  assert.equal(view.informer.gaps, 0);
}

async function setUp(t: TestContext): Promise<{ cluster: Cluster; client: EtcdClient }> {
  const cluster = await startCluster(t);
  return { cluster, client: await openClient(t, cluster.endpoints) };
}

test('the first list arrives in pages of one revision, and later changes one by one', options, async (t) => {
  const { client } = await setUp(t);
  await putMany(client, 12_000);
  const view = await startView(t, client);
  assert.equal(view.values.size, 12_000);
  assert.ok(view.batches.length > 3, String(view.batches.length));
  assert.ok(view.batches.every(({ source }) => source === 'list'));
  await putEach(client, 100, 11_950);
  await client.delete(`${PREFIX}vm/7`);
  await client.put('/t/other/1', 'outside');
  await client.put(`${PREFIX}vm/last`, 'last');
  await assertExact(client, view);
  assert.equal(view.events.length, 102);
  const [deletion] = view.batches.flatMap(({ events }) => events).filter(({ type }) => type === 'delete');
  assert.equal(deletion?.key, `${PREFIX}vm/7`);
  assert.ok(deletion!.previousRevision > 0);
});

test('all changes of a transaction are in one batch, also if the response arrives in fragments', options, async (t) => {
  const { client } = await setUp(t);
  const view = await startView(t, client);
  const revisions: number[] = [];
  // More than 1.5 MB, which is etcd's limit of a response, while the view is away: they arrive together.
  for (let turn = 0; turn < 4; turn++) revisions.push(await putMany(client, 64, { from: turn * 64, size: 15_000 }));
  await assertExact(client, view);
  const late = await startView(t, client);
  assert.equal(late.values.size, 256);
  for (const revision of revisions) {
    const batches = view.batches.filter(({ events }) => events.some((event) => event.revision === revision));
    assert.equal(batches.length, 1);
  }
});

for (const fault of ['killed', 'frozen'] as const) {
  for (const role of ['leader', 'follower'] as const) {
    test(`no event is lost or repeated when the watched ${role} is ${fault}`, options, async (t) => {
      const { cluster, client } = await setUp(t);
      const watched = role === 'leader' ? await cluster.leader() : (await cluster.followers())[0]!;
      const others = cluster.endpoints.filter((endpoint) => endpoint !== watched.endpoint);
      const writer = await openClient(t, others);
      const view = await startView(t, await openClient(t, [watched.endpoint, ...others]));
      assert.equal(view.informer.endpoint ?? watched.endpoint, watched.endpoint);
      await putEach(writer, 300);
      await until('the view follows', () => view.events.length === 300);
      const stopped = fault === 'killed' ? watched.kill() : watched.freeze();
      await stopped;
      // With the leader gone, the writer waits for the next one.
      let written = 300;
      while (written < 600) {
        await writer.put(`${PREFIX}vm/${written}`, 'x').then(
          () => written++,
          () => {},
        );
      }
      await assertExact(client, view);
      assert.equal(view.informer.lists, 1, 'it resumed instead of listing again');
      if (fault === 'killed') await watched.restart();
      else watched.thaw();
      await putEach(writer, 100, 600);
      await assertExact(client, view);
    });
  }
}

test(
  'a silent watch is noticed within 3 s, and someone who waits for a revision makes it faster',
  options,
  async (t) => {
    const { cluster, client } = await setUp(t);
    const proxy = await cutProxy(t, cluster.endpoints[0]!);
    const view = await startView(t, await openClient(t, [proxy.endpoint, cluster.endpoints[1]!]));
    await until('the watch is created', () => view.informer.watches === 1);
    proxy.hold();
    const { header } = await client.put(`${PREFIX}vm/1`, 'x');
    const startedAt = performance.now();
    await view.informer.waitFor(header.revision, 10_000);
    assert.ok(performance.now() - startedAt < 3000);
    assert.match(view.problems.join('\n'), /does not answer/);
    assert.equal(view.informer.endpoint, cluster.endpoints[1]);
    assert.equal(view.values.size, 1);
  },
);

test(
  'the age of the view grows while no member answers, and a restart of the cluster loses nothing',
  options,
  async (t) => {
    const { cluster, client } = await setUp(t);
    const view = await startView(t, client);
    await putEach(client, 10);
    await assertExact(client, view);
    await Promise.all(cluster.members.map((member) => member.kill()));
    await until('the view ages', () => view.informer.age > 1500);
    await Promise.all(cluster.members.map((member) => member.restart()));
    await cluster.ready();
    await until('the view is confirmed again', () => view.informer.age < 1100);
    await putEach(client, 10, 10);
    await assertExact(client, view);
    assert.equal(view.informer.lists, 1);
  },
);

test('cuts in the middle of a catch-up lose nothing', options, async (t) => {
  const { cluster, client } = await setUp(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const view = await startView(t, await openClient(t, [proxy.endpoint]));
  await putEach(client, 10);
  await until('the view follows', () => view.events.length === 10);
  proxy.hold();
  await putEach(client, 4000, 10);
  // The backlog has about 400 kB. It is cut three times on its way.
  proxy.cut();
  proxy.release();
  for (let cuts = 0; cuts < 3; cuts++) {
    proxy.cutAfter(60_000);
    const { connections } = proxy;
    await until('the connection is cut', () => proxy.connections > connections || view.events.length === 4010);
  }
  proxy.cutAfter(Number.POSITIVE_INFINITY);
  await assertExact(client, view);
  assert.equal(view.events.length, 4010);
  assert.equal(view.informer.lists, 1);
});

test('the keys of etcd show whether the view is current, without a write', options, async (t) => {
  const { cluster, client } = await setUp(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  const viewer = await openClient(t, [proxy.endpoint]);
  const view = await startView(t, viewer);
  await putEach(client, 3);
  await until('the view follows', () => view.events.length === 3);
  // The answers of the watch are held, those of reads are not.
  t.mock.method(viewer, 'range', (...request: Parameters<EtcdClient['range']>) => client.range(...request));
  for (const change of [
    () => client.delete(`${PREFIX}vm/0`),
    () => client.put(`${PREFIX}vm/1`, 'changed'),
    () => client.put(`${PREFIX}vm/3`, 'new'),
    () =>
      client.txn(
        [],
        [
          { type: 'delete', key: `${PREFIX}vm/1` },
          { type: 'put', key: `${PREFIX}vm/4`, value: 'new' },
        ],
      ),
  ]) {
    await view.informer.awaitSameKeys(5000);
    proxy.hold();
    await change();
    await assert.rejects(view.informer.awaitSameKeys(200), { kind: 'unavailable' });
    const current = view.informer.awaitSameKeys(10_000);
    proxy.release();
    await current;
    await assertExact(client, view);
  }
});

test('after a compaction the view reports the difference, deletions included', options, async (t) => {
  const { cluster, client } = await setUp(t);
  const proxy = await cutProxy(t, cluster.endpoints[0]!);
  await putMany(client, 6000);
  const view = await startView(t, await openClient(t, [proxy.endpoint]));
  await until('the watch is created', () => view.informer.watches === 1);
  proxy.hold();
  for (let number = 0; number < 111; number++) await client.delete(`${PREFIX}vm/${number}`);
  await client.put(`${PREFIX}vm/5999`, 'changed');
  const { header } = await client.put(`${PREFIX}vm/new`, 'new');
  await client.compact(header.revision);
  const batches = view.batches.length;
  proxy.cut();
  proxy.release();
  await until('the view lists again', () => view.informer.lists === 2);
  await assertExact(client, view);
  const difference = view.batches.slice(batches);
  assert.deepEqual(
    difference.map(({ source, isReset }) => [source, isReset]),
    [['list', false]],
  );
  const count = (type: string) => difference[0]!.events.filter((event) => event.type === type).length;
  assert.deepEqual([count('put'), count('delete')], [2, 111]);
});

test('a list restarts if its revision is compacted between two pages', options, async (t) => {
  const { client } = await setUp(t);
  await putMany(client, 3000, { size: 5000 });
  const reader = await openClient(t, client.endpoints.all);
  const range = reader.range.bind(reader);
  let pages = 0;
  reader.range = async (...args) => {
    if (++pages === 2) {
      await client.delete(`${PREFIX}vm/0`);
      const { header } = await client.put(`${PREFIX}vm/2999`, 'changed');
      await client.compact(header.revision);
    }
    return range(...args);
  };
  const view = await startView(t, reader);
  assert.equal(view.values.size, 2999);
  assert.equal(view.values.get(`${PREFIX}vm/2999`), 'changed');
  await assertExact(client, view);
});

test('a view that was stopped reports nothing more', options, async (t) => {
  const { client } = await setUp(t);
  const view = await startView(t, client);
  const waiting = assert.rejects(view.informer.waitFor(1e9, 60_000), { kind: 'unavailable' });
  view.informer.stop();
  await waiting;
  await client.put(`${PREFIX}vm/1`, 'x');
  assert.equal(view.values.size, 0);
});

test(
  'a restored backup is another history, also if the cluster has passed the revision of the view',
  options,
  async (t) => {
    const { cluster, client } = await setUp(t);
    await putMany(client, 100);
    const snapshot = await cluster.snapshot();
    const view = await startView(t, client);
    await putEach(client, 20, 100);
    await client.delete(`${PREFIX}vm/1`);
    await assertExact(client, view);
    const revision = view.informer.revision;
    await cluster.restore(snapshot);
    // Other changes take the revisions of the lost ones while the view is away.
    await until('the cluster serves again', () =>
      client.put('/t/other', 'x').then(
        () => true,
        () => false,
      ),
    );
    const other = await openClient(t, cluster.endpoints);
    for (let number = 0; number < 50; number++) await other.put(`${PREFIX}vm/${number + 500}`, 'other');
    await until('the view lists again', () => view.informer.lists > 1);
    await until('the view has all keys', () => view.values.size === 150);
    assert.ok(view.batches.some(({ isReset }) => isReset));
    assert.ok(view.informer.revision >= revision);
    view.events.length = 0;
    await assertExact(client, view);
  },
);
