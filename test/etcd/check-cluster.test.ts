/** The checks of a cluster, against real clusters that have each of the problems. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type ClusterFinding, checkCluster } from '../../daemon/store/etcd/check-cluster.ts';
import { parseEtcdUrl, readEtcdTarget } from '../../daemon/store/etcd/etcd-url.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { enableUsers, startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { openClient } from '../helpers/etcd-replica.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();

const resultOf = (findings: readonly ClusterFinding[], check: string) =>
  findings.find((finding) => finding.check === check)!;

test('a plain cluster works, with warnings about its version, users and compaction', options, async (t) => {
  const cluster = await startCluster(t);
  const client = await openClient(t, cluster.endpoints);
  const before = (await client.range({ key: 'x' })).header.revision;
  const findings = await checkCluster(parseEtcdUrl(cluster.url));
  assert.deepEqual(
    findings.map(({ check }) => check),
    ['members', 'version', 'transactions', 'alarms', 'tls', 'access', 'compaction', 'quota', 'clock', 'latency'],
  );
  const by = (check: string) => resultOf(findings, check);
  assert.deepEqual([by('members').result, by('members').detail], ['ok', '3 of 3 members answer']);
  assert.deepEqual([by('transactions').result, by('alarms').result, by('clock').result], ['ok', 'ok', 'ok']);
  assert.match(by('tls').detail, /stay on this machine/);
  assert.deepEqual(
    [by('access').result, by('access').detail],
    ['warn', 'anyone who reaches etcd can read and change /vreg/v1/'],
  );
  assert.equal(by('compaction').result, 'skip');
  assert.match(by('quota').detail, /the quota is 2 GiB/);
  assert.match(by('latency').detail, /^a commit takes \d+\.\d ms/);
  for (const { result, fix, check } of findings)
    assert.equal(fix !== undefined, result === 'warn' || result === 'fail', check);
  assert.equal((await client.range({ key: 'x' })).header.revision, before, 'the check has written nothing');
});

test('a compaction shows how much history etcd keeps', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const client = await openClient(t, cluster.endpoints);
  for (let number = 0; number < 50; number++) await client.put('x', String(number));
  const { revision } = (await client.range({ key: 'x' })).header;
  await client.compact(revision - 9);
  const { result, detail } = resultOf(await checkCluster(parseEtcdUrl(cluster.url)), 'compaction');
  assert.deepEqual([result, detail], ['ok', `etcd has the last 10 of ${revision} revisions`]);
});

test('a cluster without compaction for many revisions, and with a small quota, is warned about', options, async (t) => {
  const cluster = await startCluster(t, { members: 1, flags: ['--quota-backend-bytes=33554432'] });
  const client = await openClient(t, cluster.endpoints);
  const numbers = Array.from({ length: 5000 }, (_, number) => number);
  const work = async () => {
    while (numbers.pop() !== undefined) await client.put('x', '');
  };
  await Promise.all(Array.from({ length: 64 }, work));
  const findings = await checkCluster(parseEtcdUrl(cluster.url));
  assert.equal(resultOf(findings, 'members').result, 'warn', 'one member');
  assert.equal(resultOf(findings, 'compaction').result, 'warn');
  assert.match(resultOf(findings, 'compaction').fix ?? '', /--auto-compaction-mode=periodic/);
  const { result, detail } = resultOf(findings, 'quota');
  assert.equal(result, 'warn');
  assert.match(detail, /the quota is 32 MiB/);
});

test('an alarm is a failure, after which nothing else is checked', options, async (t) => {
  const cluster = await startCluster(t, { members: 1, flags: ['--quota-backend-bytes=2097152'] });
  const client = await openClient(t, cluster.endpoints);
  const fill = async () => {
    for (let number = 0; ; number++) await client.put(`/fill/${number}`, 'x'.repeat(300_000));
  };
  await assert.rejects(fill(), { kind: 'no-space' });
  const findings = await checkCluster(parseEtcdUrl(cluster.url));
  const { result, fix } = resultOf(findings, 'alarms');
  assert.equal(result, 'fail');
  assert.match(fix ?? '', /etcdctl alarm disarm/);
  assert.equal(resultOf(findings, 'latency').result, 'skip');
});

test('a stopped member is a warning, and a lost majority a failure', options, async (t) => {
  const cluster = await startCluster(t);
  await cluster.members[1]!.kill();
  await cluster.ready();
  const { result, detail } = resultOf(await checkCluster(parseEtcdUrl(cluster.url)), 'members');
  assert.equal(result, 'warn');
  assert.match(detail, /^2 of 3 members answer; .*ECONNREFUSED/);
  await cluster.members[2]!.kill();
  const findings = await until('the member has lost its leader', async () => {
    const found = await checkCluster(parseEtcdUrl(cluster.url));
    return found.some((finding) => finding.result === 'fail') ? found : undefined;
  });
  assert.ok(findings.some((finding) => finding.result === 'fail'));
  await cluster.stop();
  const [members] = await checkCluster(parseEtcdUrl(cluster.url));
  assert.equal(members!.result, 'fail');
});

test('clocks that differ are a warning', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const findings = await checkCluster(parseEtcdUrl(cluster.url), () => Date.now() + 60_000);
  const { result, detail } = resultOf(findings, 'clock');
  assert.equal(result, 'warn');
  assert.match(detail, /^this machine is (59|60|61)s ahead of 127\.0\.0\.1:/);
});

test(
  'a cluster with TLS and users has no warning about either',
  options.skip ? options : unless('openssl'),
  async (t) => {
    const authority = makeAuthority(t);
    const { ca } = authority;
    const server = authority.issue('server', { subject: '/CN=root' });
    const mine = authority.issue('client', { subject: '/CN=vreg' });
    const cluster = await startCluster(t, { members: 1, tls: { ca, ...server } });
    await enableUsers(cluster, '/vreg/v1/', undefined);
    const findings = await checkCluster(await readEtcdTarget(cluster.url, { ca, ...mine }));
    const by = (check: string) => resultOf(findings, check);
    assert.deepEqual(
      [by('tls').result, by('access').result, by('quota').result, by('clock').result],
      ['ok', 'ok', 'ok', 'ok'],
    );
    assert.equal(by('access').detail, '/vreg/v1/ requires a user or a certificate');
  },
);
