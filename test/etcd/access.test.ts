/** TLS with client certificates, and users with roles, against real clusters. */
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { type EtcdOptions, readEtcdTarget } from '../../daemon/store/etcd/etcd-url.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { tempDir } from '../helpers/daemon.ts';
import { cutProxy, enableUsers, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { startView } from '../helpers/etcd-replica.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();
const withOpenssl = options.skip ? options : unless('openssl');

async function open(t: TestContext, url: string, access: EtcdOptions = {}): Promise<EtcdClient> {
  const client = await EtcdClient.open(await readEtcdTarget(url, access));
  t.after(() => client.close());
  return client;
}

function passwordIn(t: TestContext, password: string): string {
  const file = join(tempDir(t), 'password');
  writeFileSync(file, `${password}\n`);
  chmodSync(file, 0o600);
  return file;
}

test('a user with a password reads and writes its prefix, and nothing else', options, async (t) => {
  const cluster = await startCluster(t);
  await enableUsers(cluster, '/vreg/v1/', 'secret');
  const client = await open(t, cluster.url, { user: 'vreg', passwordFile: passwordIn(t, 'secret') });
  await Promise.all([1, 2, 3].map(() => client.checkServer('/vreg/v1/probe')));
  await client.put('/vreg/v1/a', 'a');
  await assert.rejects(client.put('/other', 'a'), { kind: 'denied' });
  await assert.rejects(client.range({ key: '/other' }), { kind: 'denied' });
  const wrong = await open(t, cluster.url, { user: 'vreg', passwordFile: passwordIn(t, 'wrong') });
  await assert.rejects(wrong.range({ key: '/vreg/v1/a' }), { kind: 'denied' });
  const nobody = await open(t, cluster.url);
  await assert.rejects(nobody.range({ key: '/vreg/v1/a' }), { kind: 'denied' });
});

test('the client authenticates again after its tokens were lost, and its view follows', options, async (t) => {
  const cluster = await startCluster(t);
  await enableUsers(cluster, '/vreg/v1/', 'secret');
  const client = await open(t, cluster.url, { user: 'vreg', passwordFile: passwordIn(t, 'secret') });
  const view = await startView(t, client, '/vreg/v1/s/');
  await client.put('/vreg/v1/s/a', '1');
  // Members keep their tokens in memory.
  await Promise.all(cluster.members.map((member) => member.kill()));
  await Promise.all(cluster.members.map((member) => member.restart()));
  await until('the cluster serves again', () =>
    client.put('/vreg/v1/s/b', '2').then(
      () => true,
      () => false,
    ),
  );
  await until('the view follows', () => view.values.get('/vreg/v1/s/b') === '2');
  assert.equal(view.informer.lists, 1);
});

test('TLS requires the right authority and a client certificate', withOpenssl, async (t) => {
  const authority = makeAuthority(t);
  const { ca } = authority;
  const server = authority.issue('server');
  const mine = authority.issue('client', { subject: '/CN=vreg' });
  const cluster = await startCluster(t, { tls: { ca, ...server } });
  const client = await open(t, cluster.url, { ca, ...mine });
  await client.put('/vreg/v1/a', 'a');
  const view = await startView(t, client, '/vreg/v1/');
  assert.equal(view.values.get('/vreg/v1/a'), 'a');
  const short = { timeoutMs: 1000 };
  const withoutCertificate = await open(t, cluster.url, { ca });
  await assert.rejects(withoutCertificate.range({ key: '/a' }, short), { kind: 'unavailable' });
  const otherAuthority = await open(t, cluster.url, { ca: makeAuthority(t).ca, ...mine });
  await assert.rejects(otherAuthority.range({ key: '/a' }, short), { kind: 'unavailable', message: /certificate/ });
  const plain = await open(t, cluster.url.replace('etcds:', 'etcd:'));
  await assert.rejects(plain.range({ key: '/a' }, short), { kind: 'unavailable' });
});

test('a member whose certificate has another name or address is refused', withOpenssl, async (t) => {
  const authority = makeAuthority(t);
  const { ca } = authority;
  const mine = authority.issue('client', { subject: '/CN=vreg' });
  // etcdctl must reach the members; the client uses a name or an address that is not in the certificate.
  const server = authority.issue('server', { subject: '/CN=etcd', names: 'IP:127.0.0.1' });
  const cluster = await startCluster(t, { members: 1, tls: { ca, ...server } });
  const [endpoint] = cluster.endpoints;
  await (await open(t, `etcds://${endpoint}/`, { ca, ...mine })).range({ key: '/a' });
  for (const host of ['localhost', '127.0.0.2']) {
    const proxy = await cutProxy(t, endpoint!, '0.0.0.0');
    const client = await open(t, `etcds://${host}:${proxy.endpoint.split(':')[1]}/`, { ca, ...mine });
    await assert.rejects(client.range({ key: '/a' }, { timeoutMs: 1000 }), {
      kind: 'unavailable',
      message: /certificate's altnames/,
    });
  }
});

test('the common name of a client certificate is a user, with the limits of its role', withOpenssl, async (t) => {
  const authority = makeAuthority(t);
  const { ca } = authority;
  const server = authority.issue('server', { subject: '/CN=root' });
  const mine = authority.issue('client', { subject: '/CN=vreg' });
  const cluster = await startCluster(t, { tls: { ca, ...server } });
  await enableUsers(cluster, '/vreg/v1/', undefined);
  const client = await open(t, cluster.url, { ca, ...mine });
  await client.put('/vreg/v1/a', 'a');
  await assert.rejects(client.put('/other', 'a'), { kind: 'denied' });
});

test('certificates that do not belong together are an error at the start', withOpenssl, async (t) => {
  const authority = makeAuthority(t);
  const [one, two] = [authority.issue('one'), authority.issue('two')];
  await assert.rejects(open(t, 'etcds://127.0.0.1:1', { ca: authority.ca, cert: one.cert, key: two.key }), {
    code: 'STORE_UNUSABLE',
    message: /cannot use the certificates for etcd/,
  });
});
