/** The registry on a cluster that does not confirm a change, or has no space for it. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { EtcdError } from '../../daemon/store/etcd/etcd-error.ts';
import type { RangeRequest } from '../../daemon/store/etcd/messages.ts';
import { formatPosition } from '../../src/protocol/position.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { startReplica } from '../helpers/etcd-registry.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const options = unlessEtcd();

test(
  'a change that a frozen cluster does not confirm has an unknown outcome, and may be made later',
  options,
  async (t) => {
    const {
      endpoints,
      members: [member],
    } = await startCluster(t, { members: 1 });
    const { registry } = await startReplica(t, endpoints);
    await registry.register(aVm({ id: 'vm-1' }));
    member!.freeze();
    const error = await registry.update('vm-1', { name: 'two' }, { by: 'ops' }).catch((thrown) => thrown);
    assert.deepEqual([error.code, error.exit, error.retryAfter], ['OUTCOME_UNKNOWN', 6, undefined]);
    assert.match(error.hint, /vreg get ID/);
    assert.equal(registry.get('vm-1').name, aVm().name, 'reads show what is known');
    member!.thaw();
    await registry.replicas.catchUp();
    const second = await startReplica(t, endpoints);
    assert.equal(registry.get('vm-1').json, second.registry.get('vm-1').json);
    const { json } = await registry.update('vm-1', { name: 'three' }, { by: 'ops' });
    await second.registry.replicas.catchUp();
    assert.equal(second.registry.get('vm-1').json, json);
  },
);

test('a replica that reads the list twice at its start has nothing that was removed meanwhile', options, async (t) => {
  const { endpoints } = await startCluster(t, { members: 1 });
  const a = await startReplica(t, endpoints);
  // Together with their notes in the journal, they need two pages, of which the first one has 500 keys.
  const ids = Array.from({ length: 260 }, (_, index) => `vm-${1000 + index}`);
  await Promise.all(ids.map((id) => a.registry.register(aVm({ id }))));
  const { token } = await a.tokens.create({ name: 'ops', scope: 'admin' }, 'test');
  const { range } = EtcdClient.prototype;
  const mock = t.mock.method(EtcdClient.prototype, 'range', async function (this: EtcdClient, request: RangeRequest) {
    if (!request.revision) return range.call(this, request);
    mock.mock.restore();
    await a.registry.deregister(ids[0]!, { by: 'test' });
    await a.tokens.revoke('ops', 'test');
    throw new EtcdError('compacted', 'the revision of the first page was compacted');
  });
  const b = await startReplica(t, endpoints);
  assert.deepEqual([b.registry.has(ids[0]!), b.registry.has(ids[1]!)], [false, true]);
  assert.equal(b.tokens.find(token), undefined);
  await a.registry.replicas.catchUp();
  assert.equal(b.registry.positions.current, a.registry.positions.current);
});

test('a cluster without space refuses changes, but serves reads and removes VMs', options, async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1, flags: ['--quota-backend-bytes=4194304'] });
  const [a, b] = [await startReplica(t, endpoints), await startReplica(t, endpoints)];
  for (const id of ['vm-1', 'vm-2']) await a.registry.register(aVm({ id }));
  await b.registry.replicas.catchUp();
  for (let n = 0; (await etcdctl('alarm', 'list')) === ''; n++)
    await etcdctl('put', `/filler/${n}`, 'x'.repeat(100_000)).catch(() => {});
  const error = await a.registry.register(aVm({ id: 'vm-3' })).catch((thrown) => thrown);
  assert.deepEqual([error.code, error.status], ['STORE_FULL', 507]);
  assert.equal(a.registry.has('vm-3'), false);
  await assert.rejects(b.registry.deregister('vm-3'), { code: 'NOT_FOUND' });
  await b.registry.replicas.awaitVm('vm-3');
  const before = b.registry.revision;
  const removal = formatPosition(await a.registry.deregister('vm-1', { by: 'ops' }));
  assert.equal(a.registry.has('vm-1'), false);
  await b.registry.replicas.awaitPosition(removal);
  assert.equal(b.registry.positions.current, removal);
  assert.equal(await b.registry.changesSince(before), undefined, 'the journal lacks the removal');
  await etcdctl('del', '--prefix', '/filler/');
  const { header } = JSON.parse(await etcdctl('get', '/none', '-w', 'json')) as { header: { revision: number } };
  await etcdctl('compact', String(header.revision));
  await etcdctl('defrag');
  await etcdctl('alarm', 'disarm');
  // The note of the removal is written later.
  await until('the note', async () => (await b.registry.history('vm-1', 1))[0]?.position === removal);
  const [note] = await a.registry.history('vm-1', 1);
  // A history is read from etcd, but the journal is that of the view.
  await b.registry.replicas.catchUp();
  assert.deepEqual([note?.type, note?.by], ['deregistered', 'ops']);
  assert.deepEqual(
    (await b.registry.changesSince(before))?.map(({ type, entry }) => `${type} ${entry.id}`),
    ['deregistered vm-1'],
  );
  const c = await startReplica(t, endpoints);
  assert.equal(c.registry.positions.current, removal);
  assert.equal(b.registry.positions.current, removal);
  await a.registry.register(aVm({ id: 'vm-1' }));
  await a.registry.deregister('vm-1');
  await a.registry.register(aVm({ id: 'vm-3' }));
  for (const { registry } of [a, b]) await registry.replicas.catchUp();
  assert.deepEqual(
    ['vm-1', 'vm-2', 'vm-3'].map((id) => b.registry.has(id)),
    [false, true, true],
  );
  assert.equal(b.registry.positions.current, a.registry.positions.current);
});

test('a cluster without space ends tokens and sessions for all replicas', options, async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1, flags: ['--quota-backend-bytes=4194304'] });
  const [a, b] = [await startReplica(t, endpoints), await startReplica(t, endpoints)];
  const { token } = await a.tokens.create({ name: 'leaked', scope: 'write' }, 'ops');
  const { records } = a.registry.unsaved;
  records.add({ kind: 'session', key: 'ended', body: '{}' });
  await a.registry.saveHeartbeats();
  await b.registry.replicas.catchUp();
  assert.equal(b.tokens.find(token)?.name, 'leaked');
  for (let n = 0; (await etcdctl('alarm', 'list')) === ''; n++)
    await etcdctl('put', `/filler/${n}`, 'x'.repeat(100_000)).catch(() => {});
  await assert.rejects(a.tokens.revoke('leaked', 'ops'), {
    code: 'STORE_FULL',
    message: /^revoked leaked, .*: etcd has no space left for the history; the tokens are removed$/,
  });
  await b.registry.replicas.catchUp();
  assert.equal(b.tokens.find(token), undefined);
  // The put of another session does not prevent the removal.
  records.add({ kind: 'session', key: 'begun', body: '{}' });
  records.add({ kind: 'session', key: 'ended', body: undefined });
  await assert.rejects(a.registry.saveHeartbeats(), { code: 'STORE_FULL' });
  const stored = async () =>
    (await etcdctl('get', '--prefix', '/vreg/v1/', '--keys-only')).match(/leaked|ended|begun/g);
  assert.equal(await stored(), null);
  await etcdctl('del', '--prefix', '/filler/');
  const { header } = JSON.parse(await etcdctl('get', '/none', '-w', 'json')) as { header: { revision: number } };
  await etcdctl('compact', String(header.revision));
  await etcdctl('defrag');
  await etcdctl('alarm', 'disarm');
  await a.registry.saveHeartbeats();
  assert.deepEqual(await stored(), ['begun']);
  assert.deepEqual(await a.tokens.revoke('leaked', 'ops'), [], 'the revocation is saved completely');
  await a.tokens.create({ name: 'leaked', scope: 'read' }, 'ops');
  await b.registry.replicas.catchUp();
  assert.ok(b.tokens.list.some(({ name }) => name === 'leaked'));
  assert.equal(b.tokens.find(token), undefined);
  assert.equal(b.registry.positions.current, a.registry.positions.current);
});
