/** The registry on etcd: several replicas of it, on one real cluster. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { enrol } from '../../daemon/access/enrol.ts';
import type { Token } from '../../daemon/access/token.ts';
import type { Proof } from '../../daemon/registry/incarnation.ts';
import { cutProxy, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { type EtcdReplica, startReplica } from '../helpers/etcd-registry.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const token = (number: number, name = 'a') => `${number}.${name.repeat(32)}`;
const ONE = { incarnation: 'one', address: '10.0.0.1', from: '192.0.2.1' };
const TWO = { incarnation: 'two', address: '10.0.0.2', from: '192.0.2.2' };

/** Sends a heartbeat to a replica, as the HTTP handler does. */
async function beat({ registry }: EtcdReplica, proof: Proof): Promise<void> {
  do {
    await registry.replicas.prepareHeartbeat('vm-1', proof);
    registry.heartbeat('vm-1', proof);
  } while (!(await registry.replicas.claimIdentity('vm-1')));
}

test('replicas on etcd', unlessEtcd(), async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1 });

  await t.test('a change on one replica is visible there at once, and on the others', async (t) => {
    const [a, b] = [await startReplica(t, endpoints, '/one/'), await startReplica(t, endpoints, '/one/')];
    const entry = await a.registry.register(aVm());
    assert.equal(a.registry.get('vm-1').json, entry.json);
    await b.registry.replicas.catchUp();
    const copy = b.registry.get('vm-1');
    assert.equal(copy.json, entry.json);
    assert.deepEqual(copy.version, entry.version);
    assert.equal(b.registry.positions.compare(entry.position), 'same');
    await b.registry.update('vm-1', { name: 'two' }, { by: 'ops' });
    await a.registry.deregister('vm-1', { by: 'ops' });
    await b.registry.replicas.catchUp();
    await a.registry.replicas.catchUp();
    assert.equal(b.registry.has('vm-1'), false);
    assert.deepEqual(a.events, b.events);
    assert.deepEqual(
      a.events.map((event) => event.split(' ')[0]),
      ['registered', 'updated', 'deregistered'],
    );
    const history = await b.registry.history('vm-1', 10);
    assert.deepEqual(
      history.map(({ type, by, position }) => [type, by, b.registry.positions.compare(position!)]),
      [
        ['deregistered', 'ops', 'same'],
        ['updated', 'ops', 'same'],
        ['registered', 'anonymous', 'same'],
      ],
    );
    assert.deepEqual(
      (await a.registry.changesSince(entry.version.revision))?.map(({ type }) => type),
      ['deregistered'],
    );
  });

  await t.test('exactly one of many concurrent registrations succeeds', async (t) => {
    const replicas = await Promise.all([1, 2, 3].map(() => startReplica(t, endpoints, '/two/')));
    for (let n = 0; n < 10; n++) {
      const all = replicas.flatMap(({ registry }) => [1, 2].map(() => registry.register(aVm({ id: `vm-${n}` }))));
      const results = await Promise.allSettled(all);
      assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
      for (const result of results) if (result.status === 'rejected') assert.equal(result.reason.code, 'CONFLICT');
    }
  });

  await t.test('a replica that starts later has the same VMs, order, positions and tokens', async (t) => {
    const a = await startReplica(t, endpoints, '/three/');
    const { token } = await a.tokens.create({ name: 'image', scope: 'enrol' }, 'ops');
    let secret = '';
    const attach = (created: number) => {
      const issued = a.tokens.issue(a.tokens.find(token)!, aVm({ id: 'enrolled' }), created);
      secret = issued.secret;
      return issued.attachment;
    };
    await a.registry.register(aVm({ id: 'enrolled' }), { attach });
    for (const id of ['z', 'y "quoted" / \\', 'x\ud800']) await a.registry.register(aVm({ id }));
    await a.registry.update('z', { status: 'paused' });
    await a.registry.replicas.catchUp();
    const b = await startReplica(t, endpoints, '/three/');
    assert.deepEqual(
      b.registry.list({}).map(({ json }) => json),
      a.registry.list({}).map(({ json }) => json),
    );
    assert.equal(b.registry.positions.current, a.registry.positions.current);
    assert.equal(b.registry.id, a.registry.id);
    assert.equal(b.tokens.find(secret)?.restriction?.created, a.registry.get('enrolled').version.created);
    assert.equal((await etcdctl('get', '--prefix', '/three/')).includes(secret), false, 'only hashes are in etcd');
    await b.tokens.revoke('image/enrolled', 'ops');
    await a.registry.replicas.catchUp();
    assert.equal(a.tokens.find(secret), undefined);
  });

  await t.test('an enrolment fails if another replica revokes its token before it is committed', async (t) => {
    const proxy = await cutProxy(t, endpoints[0]!);
    const a = await startReplica(t, endpoints, '/revoked/');
    const { token } = await a.tokens.create({ name: 'image', scope: 'enrol' }, 'ops');
    const late = await startReplica(t, [proxy.endpoint], '/revoked/');
    const enroller = late.tokens.find(token)!;
    const enrolOn = (replica: EtcdReplica, id: string, enroller: Token) =>
      enrol(replica.registry, replica.tokens, { enroller, registration: aVm({ id }), from: undefined, write: {} });
    await enrolOn(late, 'before', enroller);
    // The other replica commits the revocation, and this one does not learn of it.
    proxy.hold();
    await a.tokens.revoke('image', 'ops');
    const enrolment = assert.rejects(enrolOn(late, 'after', enroller), {
      code: 'UNAUTHORIZED',
      message: /"image" was revoked/,
    });
    proxy.release();
    await enrolment;
    await late.registry.replicas.catchUp();
    assert.deepEqual(
      late.registry.list({}).map(({ id }) => id),
      ['before'],
    );
  });

  await t.test('the last heartbeat of a VM reaches the other replicas, and survives all of them', async (t) => {
    const [a, b] = [await startReplica(t, endpoints, '/four/'), await startReplica(t, endpoints, '/four/')];
    await a.registry.register(aVm());
    await b.registry.replicas.catchUp();
    const before = b.registry.get('vm-1').seen.lastSeen;
    await until('a heartbeat on the other replica', () => {
      a.registry.heartbeat('vm-1');
      void a.registry.saveHeartbeats();
      return b.registry.get('vm-1').seen.lastSeen > before;
    });
    const { lastSeen } = a.registry.heartbeat('vm-1');
    await Promise.all([a.close(), b.close()]);
    const c = await startReplica(t, endpoints, '/four/');
    const seen = c.registry.get('vm-1').seen.lastSeen;
    assert.equal(seen, 1000 * Math.floor(Date.parse(lastSeen) / 1000));
    assert.equal(c.registry.livenessOf(c.registry.get('vm-1')), 'live');
  });

  await t.test(
    'an agent whose heartbeats reach another replica each time is one incarnation, and a clone is refused',
    async (t) => {
      const replicas = await Promise.all([1, 2, 3].map(() => startReplica(t, endpoints, '/six/')));
      const [a, b, c] = replicas as [EtcdReplica, EtcdReplica, EtcdReplica];
      await a.registry.register(aVm());
      await Promise.all([b, c].map(({ registry }) => registry.replicas.catchUp()));
      for (let n = 1; n < 30; n++)
        await beat(replicas[n % 3]!, { ...ONE, ...(n > 1 ? { spend: token(n - 1) } : {}), next: token(n) });
      for (const replica of replicas)
        await assert.rejects(beat(replica, { ...TWO, spend: token(20), next: token(21, 'b') }), {
          code: 'IDENTITY_CONFLICT',
        });
      const catchUp = () => Promise.all(replicas.map(({ registry }) => registry.replicas.catchUp()));
      for (let n = 30; n < 33; n++) {
        // Otherwise, a replica may still count as the owner, and accept a copy without asking the others.
        await catchUp();
        await beat(replicas[n % 3]!, { ...ONE, spend: token(n - 1), next: token(n) });
      }
      await catchUp();
      const clones = [a, b].map((replica, n) =>
        beat(replica, { ...ONE, spend: token(32), next: token(33, n === 0 ? 'c' : 'd') }),
      );
      const outcomes = await Promise.allSettled(clones);
      assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1, 'two copies at the same time');
      const [refused] = outcomes.filter((outcome) => outcome.status === 'rejected');
      assert.equal(refused?.reason.code, 'IDENTITY_CONFLICT');
    },
  );

  await t.test('a registry of a newer layout is refused', async (t) => {
    const a = await startReplica(t, endpoints, '/five/');
    await a.close();
    const meta = JSON.stringify({ schema: 2, registryId: 'x', tag: '0'.repeat(16) });
    await etcdctl('put', '/five/s/meta', `${meta}\n`);
    await assert.rejects(startReplica(t, endpoints, '/five/'), { code: 'STORE_NEWER' });
  });
});
