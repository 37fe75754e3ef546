/** `vreg daemon check` against real clusters. The checks themselves are tested in `check-cluster.test.ts`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { vreg } from '../helpers/cli.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';

const options = unlessEtcd();

test('the checks of a cluster are printed with a fix for each warning', options, async (t) => {
  const cluster = await startCluster(t);
  const { code, stdout, stderr } = await vreg(['daemon', 'check', '--store', cluster.url, '-o', 'json'], {
    now: Date.now,
  });
  assert.equal(code, 0, stdout + stderr);
  const findings = JSON.parse(stdout) as { check: string; result: string; fix?: string }[];
  assert.equal(findings.length, 10);
  assert.ok(findings.every(({ result, fix }) => (result === 'warn') === (fix !== undefined)));
  const table = await vreg(['daemon', 'check', '--store', cluster.url]);
  assert.match(table.stdout, /^members\tok\t3 of 3 members answer\t-$/m);
});

test('a cluster that does not answer is a failure with the reason and a next step', async () => {
  const { code, stdout, stderr } = await vreg(['daemon', 'check', '--store', 'etcd://127.0.0.1:1']);
  assert.equal(code, 1);
  assert.match(stdout, /^members\tfail\t127\.0\.0\.1:1: .*ECONNREFUSED.*\tcheck the URL/m);
  assert.match(stdout, /^latency\tskip\tan earlier check failed\t-$/m);
  assert.match(stderr, /^vreg: the check "members" failed\nhint: check the URL/);
});

test('a missing or invalid URL is bad usage', async () => {
  const missing = await vreg(['daemon', 'check']);
  assert.equal(missing.code, 5);
  assert.match(missing.stderr, /--store URL is required/);
  const invalid = await vreg(['daemon', 'check', '--store', 'http://a:2379']);
  assert.equal(invalid.code, 5);
  assert.match(invalid.stderr, /it must begin with etcd:\/\/ or etcds:\/\//);
});
