/** Reads from the real daemon as from the original registry: lists, discover, leases and the token. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { VmList } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call, errorOf } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

test('reads from a daemon', async (t) => {
  const { url } = await startDaemon(t);
  const register = (id: string, more: Record<string, unknown> = {}) =>
    call(url, 'POST', '/registry/vms', { body: { ...aVm({ id }), ...more } });
  const idsOf = async (path: string) => {
    const { status, body } = await call(url, 'GET', path);
    const { vms, count } = body as VmList;
    assert.equal(status, 200);
    assert.equal(count, vms.length);
    assert.deepEqual(Object.keys(body as object).sort(), ['count', 'vms']);
    return vms.map(({ id }) => id);
  };

  await t.test('lists are newest first and discover is oldest first', async () => {
    for (const id of ['g1', 'g2', 'g3']) await register(id, { role: 'golden' });
    await call(url, 'PATCH', '/registry/vms/g1', { body: { name: 'changed' } });
    assert.deepEqual(await idsOf('/registry/vms?role=golden'), ['g3', 'g2', 'g1']);
    assert.deepEqual(await idsOf('/registry/discover/golden'), ['g1', 'g2', 'g3']);
  });

  await t.test(
    'lists can be filtered by role and status; an empty filter is ignored, and an unknown value matches no VM',
    async () => {
      await register('c1', { role: 'custom' });
      await register('c2', { role: 'custom', status: 'paused' });
      await register('c3', { role: 'custom', status: 'stopped' });
      assert.deepEqual(await idsOf('/registry/vms?role=custom'), ['c3', 'c2', 'c1']);
      assert.deepEqual(await idsOf('/registry/vms?role=custom&status=running'), ['c1']);
      assert.deepEqual(await idsOf('/registry/vms?role=custom&status=paused'), ['c2']);
      assert.deepEqual(await idsOf('/registry/discover/custom'), ['c1']);
      const all = await idsOf('/registry/vms');
      assert.ok(all.length >= 3);
      assert.deepEqual(await idsOf('/registry/vms?role=&status='), all);
      assert.deepEqual(await idsOf('/registry/vms?color=red'), all);
      for (const path of ['/registry/vms?role=boss', '/registry/vms?status=asleep', '/registry/discover/boss']) {
        assert.deepEqual(await idsOf(path), [], path);
      }
    },
  );

  await t.test('a response has only the fields of the original registry, whatever was requested before', async () => {
    await register('bare');
    await call(url, 'GET', '/registry/vms?include=liveness');
    const { body } = await call(url, 'GET', '/registry/vms/bare');
    assert.equal(Object.hasOwn(body as object, 'stale'), false);
  });
});

test('a VM that is silent for one lease period disappears from discover and status=running, and a heartbeat brings it back', async (t) => {
  const { url } = await startDaemon(t, { args: ['--stale-after', '1s'] });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'quiet', role: 'infra' }) });
  const found = async (path: string) => ((await call(url, 'GET', path)).body as VmList).count;
  await until('the VM to be stale', async () => (await found('/registry/discover/infra')) === 0);
  assert.equal(await found('/registry/vms?status=running'), 0);
  assert.equal(await found('/registry/vms?role=infra'), 1);
  const { body } = await call(url, 'GET', '/registry/vms/quiet');
  assert.equal((body as Vm).status, 'running');
  await call(url, 'POST', '/registry/vms/quiet/heartbeat');
  assert.equal(await found('/registry/discover/infra'), 1);
});

test('with a token configured, every route except /health requires it', async (t) => {
  const { url } = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 's3cret' } });
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  for (const [method, path] of [
    ['GET', '/registry/vms'],
    ['POST', '/registry/vms'],
    ['GET', '/registry/vms/a'],
    ['PATCH', '/registry/vms/a'],
    ['DELETE', '/registry/vms/a'],
    ['POST', '/registry/vms/a/heartbeat'],
    ['GET', '/registry/discover/infra'],
    ['GET', '/nowhere'],
    ['PUT', '/registry/discover/infra'],
    ['GET', '/registry/vms/%zz'],
    ['GET', '/registry/vms?role=%zz'],
  ] as const) {
    const missing = await call(url, method, path);
    assert.equal(missing.status, 401, `${method} ${path}`);
    assert.match(errorOf(missing), /missing/);
    assert.equal(missing.headers.get('www-authenticate'), 'Bearer');
    const invalid = await call(url, method, path, { headers: { authorization: 'Bearer s3cre' } });
    assert.equal(invalid.status, 401, `${method} ${path}`);
    assert.match(errorOf(invalid), /invalid/);
  }
  for (const scheme of ['Bearer', 'bearer', 'BEARER  ']) {
    const answer = await call(url, 'GET', '/registry/vms', { headers: { authorization: `${scheme} s3cret` } });
    assert.equal(answer.status, 200);
  }
  const basic = await call(url, 'GET', '/registry/vms', { headers: { authorization: 's3cret' } });
  assert.match(errorOf(basic), /invalid/);
});
