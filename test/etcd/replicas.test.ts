/** `vreg daemon --store etcd://…`: three real replicas on three real members of etcd. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { AGE_HEADER, POSITION_HEADER, type ReplicaInfo } from '../../src/protocol/api.ts';
import { VERSION } from '../../src/version.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { type Daemon, startDaemon, tempDir } from '../helpers/daemon.ts';
import { type Cluster, enableUsers, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const options = unlessEtcd();
const withOpenssl = options.skip ? options : unless('openssl');
const JSON_TYPE = { 'content-type': 'application/json' };

function startReplicas(t: test.TestContext, { url }: Cluster, count = 3): Promise<Daemon[]> {
  const args = ['--store', url, '--heartbeat-flush', '1s'];
  return Promise.all(Array.from({ length: count }, () => startDaemon(t, { args })));
}

function register(url: string, id: string): Promise<Response> {
  return fetch(`${url}/registry/vms`, { method: 'POST', headers: JSON_TYPE, body: JSON.stringify(aVm({ id })) });
}

/** Registers VMs one after the other, on the replicas in turn, and records those that were acknowledged. */
async function count(replicas: readonly Daemon[], prefix: string, isDone: () => boolean): Promise<string[]> {
  const acknowledged: string[] = [];
  for (let n = 0; !isDone(); n++) {
    const id = `${prefix}-${n}`;
    const response = await register(replicas[n % replicas.length]!.url, id).catch(() => undefined);
    if (response?.status === 201) acknowledged.push(id);
    await response?.arrayBuffer();
  }
  return acknowledged;
}

async function idsOf(url: string): Promise<Set<string>> {
  const response = await fetch(`${url}/registry/vms`);
  const { vms } = (await response.json()) as { vms: { id: string }[] };
  return new Set(vms.map(({ id }) => id));
}

test('three replicas on three members', { ...options, timeout: 300_000 }, async (t) => {
  const cluster = await startCluster(t);
  const replicas = await startReplicas(t, cluster);
  const [a, b, c] = replicas as [Daemon, Daemon, Daemon];

  await t.test('the commands work against each of them', async () => {
    const registered = await a.vreg(['register', 'infra-1', '--role', 'infra', '--address', '10.0.0.1']);
    assert.equal(registered.code, 0, registered.stderr);
    assert.equal((await b.vreg(['update', 'infra-1', '--name', 'two'])).code, 0);
    await until('the address on a replica that has not written', async () => {
      return (await c.vreg(['addr', 'infra'])).stdout === '10.0.0.1\n';
    });
    assert.equal((await c.vreg(['rm', 'infra-1', '--yes'])).code, 0);
    assert.equal((await a.vreg(['rm', 'infra-1', '--yes'])).code, 3, 'another replica has removed it');
  });

  await t.test(
    'no acknowledged registration is lost or doubled when members and a replica are killed or frozen',
    async () => {
      const isDone = { value: false };
      const counters = ['x', 'y', 'z', 'w'].map((name) => count([a, b], name, () => isDone.value));
      const leader = await cluster.leader();
      await leader.kill();
      await until('a write after the leader was killed', async () => (await register(a.url, `k-${Date.now()}`)).ok);
      await leader.restart();
      const [follower] = await cluster.followers();
      follower!.freeze();
      await until('a write while a follower is frozen', async () => (await register(b.url, `f-${Date.now()}`)).ok);
      follower!.thaw();
      const second = await cluster.leader();
      second.freeze();
      await until('a write while the leader is frozen', async () => (await register(a.url, `l-${Date.now()}`)).ok);
      second.thaw();
      await c.end('SIGKILL');
      await until('a write after a replica was killed', async () => (await register(b.url, `r-${Date.now()}`)).ok);
      isDone.value = true;
      const acknowledged = (await Promise.all(counters)).flat();
      assert.ok(acknowledged.length > 10, `only ${acknowledged.length} were acknowledged`);
      for (const { url } of [a, b])
        await until('all acknowledged VMs', async () => {
          const ids = await idsOf(url);
          return acknowledged.every((id) => ids.has(id));
        });
      const id = acknowledged[0]!;
      const { history } = (await (await fetch(`${a.url}/registry/vms/${id}/history`)).json()) as { history: unknown[] };
      assert.equal(history.length, 1, 'it was registered once');
      // A write that was not acknowledged may have arrived on one of them only.
      await until('the same VMs on both', async () => {
        const [ids, others] = await Promise.all([a, b].map(({ url }) => idsOf(url)));
        return isDeepStrictEqual(ids, others);
      });
    },
  );

  await t.test('without a majority, reads are served with their age, and writes get 503', async () => {
    const stopped = (await cluster.followers()).slice(0, 2);
    for (const member of stopped) await member.kill();
    const aged = await until('an answer with its age', async () => {
      const response = await fetch(`${a.url}/registry/vms?limit=1`);
      await response.arrayBuffer();
      return response.ok && response.headers.get(AGE_HEADER);
    });
    assert.ok(Number(aged) >= 3);
    const refused = await register(a.url, 'later');
    assert.equal(refused.status, 503);
    const [id] = await idsOf(a.url);
    assert.equal((await fetch(`${a.url}/registry/vms/${id}/heartbeat`, { method: 'POST' })).status, 200);
    const ready = await fetch(`${a.url}/readyz`);
    assert.equal(ready.status, 200);
    assert.equal(await ready.text(), 'degraded');
    for (const member of stopped) await member.restart();
    await until('a write after the outage', async () => (await register(b.url, 'later')).status !== 503);
    await until('an answer without an age', async () => {
      const response = await fetch(`${a.url}/registry/vms?limit=1`);
      await response.arrayBuffer();
      return !response.headers.has(AGE_HEADER);
    });
  });

  await t.test('a position of one replica is known on the other', async () => {
    const response = await register(a.url, `position-${Date.now()}`);
    const position = response.headers.get(POSITION_HEADER)!;
    const read = await fetch(`${b.url}/registry/vms?minPosition=${position}&limit=1`);
    assert.equal(read.status, 200);
    assert.ok(((await read.json()) as { vms: { id: string }[] }).vms[0]?.id.startsWith('position-'));
    const other = position.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'));
    assert.equal((await fetch(`${b.url}/registry/vms?minPosition=${other}`)).status, 412);
    const controller = new AbortController();
    const stream = await fetch(`${b.url}/registry/events?since=${position}`, { signal: controller.signal });
    const { value } = await stream.body!.getReader().read();
    assert.match(Buffer.from(value!).toString(), /^(id: [^\n]*\n)?event: synced/);
    controller.abort();
  });
});

test('each replica lists all of them, and status shows which one answered', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const first = await startDaemon(t, { args: ['--store', cluster.url] });
  const second = await startDaemon(t, { args: ['--store', cluster.url] });
  for (const daemon of [first, second]) {
    const found = await until('both replicas with their URLs', async () => {
      const { stdout } = await daemon.vreg(['status', '-o', 'json']);
      const { replicas = [] } = (JSON.parse(stdout) as { registry: { replicas?: ReplicaInfo[] } }).registry;
      const urls = replicas.map(({ url }) => url);
      return [first, second].every(({ url }) => urls.includes(url)) ? replicas : undefined;
    });
    assert.deepEqual(
      found.filter(({ answered }) => answered).map(({ url }) => url),
      [daemon.url],
    );
    for (const { version, since, host } of found) {
      assert.equal(version, VERSION);
      assert.ok(Date.parse(since!) <= Date.now());
      assert.equal(host, hostname());
    }
  }
  const { stdout } = await first.vreg(['status']);
  assert.match(stdout, /^REPLICA\tHOST\tVERSION\tUP\tANSWERED$/m);
  assert.match(stdout, new RegExp(`^${first.url}\\t.*\\tyes$`, 'm'));
  await second.end('SIGTERM');
  await until('the replica that has stopped is gone', async () => {
    const answer = (await (await fetch(`${first.url}/registry/replicas`)).json()) as { replicas: ReplicaInfo[] };
    return answer.replicas.every(({ url }) => url !== second.url);
  });
});

for (const way of ['a password', 'a client certificate over TLS'] as const) {
  test(`replicas log in to etcd with ${way}, and cannot without`, withOpenssl, async (t) => {
    const isTls = way !== 'a password';
    const authority = makeAuthority(t);
    const server = authority.issue('server', { subject: '/CN=root' });
    const mine = authority.issue('client', { subject: '/CN=vreg' });
    const cluster = await startCluster(t, { members: 1, ...(isTls ? { tls: { ca: authority.ca, ...server } } : {}) });
    await enableUsers(cluster, '/vreg/v1/', isTls ? undefined : 'secret');
    const password = join(tempDir(t), 'password');
    writeFileSync(password, 'secret\n', { mode: 0o600 });
    const ca = ['--etcd-ca', authority.ca];
    const access = isTls
      ? [...ca, '--etcd-cert', mine.cert, '--etcd-key', mine.key]
      : ['--etcd-user', 'vreg', '--etcd-password-file', password];
    const args = ['--store', cluster.url];
    const [a, b] = await Promise.all([1, 2].map(() => startDaemon(t, { args: [...args, ...access] })));
    const registered = await register(a!.url, 'vm-1');
    assert.equal(registered.status, 201);
    // Without the position, the other replica may answer before its watch has delivered the VM.
    const position = registered.headers.get(POSITION_HEADER)!;
    assert.equal((await fetch(`${b!.url}/registry/vms/vm-1?minPosition=${position}`)).status, 200);
    await assert.rejects(startDaemon(t, { args: isTls ? [...args, ...ca] : args }), /etcd/);
  });
}
