import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

test('why explains in one line, and in JSON with codes, whether discover returns a VM', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, [
    aVm({ id: 'live' }),
    aVm({ id: 'paused', status: 'paused' }),
    aVm({ id: 'stopped', status: 'stopped' }),
  ]);
  const codes = async (id: string) =>
    (await vreg(['why', id, '-o', 'jsonpath=$.reasons[*].code'], { url })).stdout.trimEnd();
  assert.deepEqual([await codes('live'), await codes('paused'), await codes('stopped')], ['', 'paused', 'stopped']);
  assert.match((await vreg(['why', 'live'], { url })).stdout, /^discover worker offers live: .*\n$/);
  clock.pass(301_000);
  assert.equal(await codes('live'), 'stale');
  const { code, stdout } = await vreg(['why', 'live'], { url });
  assert.equal(code, 0);
  assert.match(
    stdout,
    /^discover worker does not offer live: it is stale: .*Z, 5m1s of listening time ago; the lease is 5m\n$/,
  );
  clock.pass(3 * 24 * 3_600_000);
  assert.match((await vreg(['why', 'live'], { url })).stdout, /, 3d5m1s of listening time ago; the lease is 5m\n$/);
  assert.equal(
    (JSON.parse((await vreg(['why', 'live', '--json'], { url })).stdout) as { offered: boolean }).offered,
    false,
  );
});

test('why of an unknown VM exits with 3 and names it', async (t) => {
  const { url } = await serveApp(t);
  const result = await vreg(['why', 'nope'], { url });
  assert.deepEqual([result.code, result.stdout], [3, '']);
  assert.match(result.stderr, /^vreg: nope: .*\nhint: /);
});

test('why exits with 1 on the original registry and names the missing feature', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  const result = await vreg(['why', 'a'], { url });
  assert.deepEqual([result.code, result.stdout], [1, '']);
  assert.match(
    result.stderr,
    /^vreg: the registry at http:\S+ is not a vreg daemon: it does not support \w+\nhint: replace it with vreg daemon/,
  );
});
