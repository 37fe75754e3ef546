/** The routes of the original registry on the real daemon, as a client of that registry finds them. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { VmList } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call, errorOf } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const RFC3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

test('the compatible routes of a daemon', async (t) => {
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

  await t.test('health says ok and the uptime in seconds', async () => {
    const { status, body } = await call(url, 'GET', '/health');
    assert.equal(status, 200);
    const { uptime, ...rest } = body as { status: string; uptime: number };
    assert.deepEqual(rest, { status: 'ok' });
    assert.ok(uptime > 0 && uptime < 600);
  });

  await t.test('a registration is answered with 201 and exactly the fields of an entry', async () => {
    const sent = {
      ...aVm({ id: 'full', role: 'lieutenant', services: [{ name: 'pi-rpc', port: 3001, healthPath: '/health' }] }),
      metadata: { task: 'process invoices', nested: { list: [1, null, 'x'] } },
    };
    const { status, body } = await call(url, 'POST', '/registry/vms', { body: sent });
    assert.equal(status, 201);
    const { registeredAt, lastSeen, ...rest } = body as Vm;
    assert.deepEqual(rest, sent);
    assert.match(registeredAt, RFC3339);
    assert.equal(lastSeen, registeredAt);
    assert.deepEqual((await call(url, 'GET', '/registry/vms/full')).body, body);
  });

  await t.test('services and metadata that were not given are not there', async () => {
    const { body } = await register('plain', { services: null, metadata: null });
    assert.deepEqual(Object.keys(body as object).sort(), [
      'address',
      'id',
      'lastSeen',
      'name',
      'registeredAt',
      'registeredBy',
      'role',
      'status',
    ]);
  });

  await t.test('text is trimmed, unknown top-level keys are dropped, unknown keys further in are kept', async () => {
    const { status, body } = await register('kept', {
      id: '  kept ',
      name: '\tone\n',
      address: ' a.b ',
      registeredBy: ' me ',
      color: 'red',
      registeredAt: '1999-01-01T00:00:00.000Z',
      lastSeen: 'never',
      services: [{ name: ' s ', port: 1, protocol: 'grpc' }],
      metadata: { '': 0, ünï: 'cödé' },
    });
    assert.equal(status, 201);
    const { registeredAt, lastSeen, ...rest } = body as Vm;
    assert.equal(lastSeen, registeredAt);
    assert.notEqual(registeredAt, '1999-01-01T00:00:00.000Z');
    assert.deepEqual(rest, {
      ...aVm({ id: 'kept', name: 'one', address: 'a.b', registeredBy: 'me' }),
      services: [{ name: 's', port: 1, protocol: 'grpc' }],
      metadata: { '': 0, ünï: 'cödé' },
    });
  });

  await t.test('no status, an empty one and null all mean running', async () => {
    for (const [id, status] of [
      ['no-status', undefined],
      ['empty-status', ''],
      ['null-status', null],
    ] as const) {
      const answer = await register(id, { status });
      assert.equal(answer.status, 201);
      assert.equal((answer.body as Vm).status, 'running');
    }
  });

  await t.test('a second registration of an id is 409 and changes nothing', async () => {
    await register('twice');
    const answer = await register(' twice ', { name: 'other' });
    assert.equal(answer.status, 409);
    assert.match(errorOf(answer), /already registered/);
    const { body } = await call(url, 'GET', '/registry/vms/twice');
    assert.equal((body as Vm).name, 'one');
  });

  await t.test('a registration that lacks a field, or has a wrong one, is 400 and names it', async () => {
    for (const [field, value] of [
      ['id', undefined],
      ['name', ''],
      ['role', 'boss'],
      ['status', 'asleep'],
      ['address', 7],
      ['registeredBy', '  '],
    ] as const) {
      const answer = await register('wrong', { [field]: value });
      assert.equal(answer.status, 400, field);
      assert.match(errorOf(answer), new RegExp(`\\b${field}\\b`));
      assert.equal((answer.body as { field: string }).field, field);
    }
    assert.equal((await call(url, 'GET', '/registry/vms/wrong')).status, 404);
  });

  await t.test('bodies are JSON whatever curl or fetch say they are', async () => {
    for (const [id, type] of [
      ['as-form', 'application/x-www-form-urlencoded'],
      ['as-text', 'text/plain;charset=UTF-8'],
      ['as-vendor', 'application/vnd.vers+json; charset=utf-8'],
      ['as-upper', 'Application/JSON'],
    ] as const) {
      const body = JSON.stringify(aVm({ id }));
      const posted = await call(url, 'POST', '/registry/vms', { body, headers: { 'content-type': type } });
      assert.equal(posted.status, 201, type);
      const patch = { body: '{"name":"two"}', headers: { 'content-type': type } };
      assert.equal((await call(url, 'PATCH', `/registry/vms/${id}`, patch)).status, 200, type);
    }
  });

  await t.test('PATCH changes what it names, replaces services and metadata whole, and ignores the rest', async () => {
    const { body: before } = await register('patched', {
      services: [{ name: 'a', port: 1 }],
      metadata: { a: 1, b: 2 },
    });
    const { status, body } = await call(url, 'PATCH', '/registry/vms/patched', {
      body: {
        id: 'stolen',
        role: 'infra',
        registeredBy: 'thief',
        registeredAt: 'now',
        lastSeen: 'now',
        color: 'red',
        name: ' two ',
        status: 'paused',
        address: 'b.c',
        services: [{ name: 'b', port: 2 }],
        metadata: { c: 3 },
      },
    });
    assert.equal(status, 200);
    assert.deepEqual(body, {
      ...(before as Vm),
      name: 'two',
      status: 'paused',
      address: 'b.c',
      services: [{ name: 'b', port: 2 }],
      metadata: { c: 3 },
    });
    assert.equal((await call(url, 'GET', '/registry/vms/stolen')).status, 404);
  });

  await t.test('PATCH with nothing known in it is 200 and the entry as it was', async () => {
    const { body: before } = await register('untouched');
    for (const body of [{}, { color: 'red' }]) {
      const answer = await call(url, 'PATCH', '/registry/vms/untouched', { body });
      assert.deepEqual([answer.status, answer.body], [200, before]);
    }
  });

  await t.test(
    'PATCH with a wrong field is 400 and changes nothing; of an unknown id it is 404 whatever is in it',
    async () => {
      const { body: before } = await register('steady');
      for (const [field, value] of [
        ['name', ' '],
        ['status', null],
        ['status', ''],
        ['address', 5],
        ['services', 'x'],
        ['metadata', []],
      ] as const) {
        const body = { metadata: {}, name: 'x', [field]: value };
        const answer = await call(url, 'PATCH', '/registry/vms/steady', { body });
        assert.equal(answer.status, 400, field);
        assert.match(errorOf(answer), new RegExp(`\\b${field}\\b`));
        const unknown = await call(url, 'PATCH', '/registry/vms/nobody', { body });
        assert.equal(unknown.status, 404);
        assert.match(errorOf(unknown), /VM not found/);
      }
      assert.deepEqual((await call(url, 'GET', '/registry/vms/steady')).body, before);
    },
  );

  await t.test('a heartbeat moves lastSeen alone, with a content type and no body as without', async () => {
    const { body } = await register('beating', { status: 'paused' });
    const { lastSeen: first } = body as Vm;
    for (const headers of [{}, { 'content-type': 'application/json' }, { 'content-type': 'text/xml' }]) {
      const beat = await until('a beat in a later millisecond', async () => {
        const answer = await call(url, 'POST', '/registry/vms/beating/heartbeat', { headers });
        assert.equal(answer.status, 200);
        assert.deepEqual(Object.keys(answer.body as object).sort(), ['id', 'lastSeen']);
        const { id, lastSeen } = answer.body as Vm;
        assert.equal(id, 'beating');
        return lastSeen > first && lastSeen;
      });
      const { body: after } = await call(url, 'GET', '/registry/vms/beating');
      assert.deepEqual(after, { ...(body as Vm), lastSeen: beat });
    }
  });

  await t.test('DELETE is 200 {deleted: true} with a content type and no body, and 404 the second time', async () => {
    await register('gone');
    const headers = { 'content-type': 'application/json' };
    const answer = await call(url, 'DELETE', '/registry/vms/gone', { headers });
    assert.deepEqual([answer.status, answer.body], [200, { deleted: true }]);
    const again = await call(url, 'DELETE', '/registry/vms/gone', { headers });
    assert.equal(again.status, 404);
    assert.match(errorOf(again), /VM not found/);
  });

  await t.test('an unknown VM is 404 to get, update, remove and beat', async () => {
    for (const [method, path] of [
      ['GET', ''],
      ['PATCH', ''],
      ['DELETE', ''],
      ['POST', '/heartbeat'],
    ] as const) {
      const body = method === 'PATCH' ? {} : undefined;
      const answer = await call(url, method, `/registry/vms/nobody${path}`, { body });
      assert.equal(answer.status, 404, method);
      assert.match(errorOf(answer), /VM not found/);
    }
  });

  await t.test('ids with slashes, spaces, dots and any script work through encodeURIComponent', async () => {
    for (const id of [
      'a/b/heartbeat',
      'with space',
      'größe-日本-🦊',
      '50%',
      'a?b#c',
      '...',
      'q&role=infra',
      '__proto__',
    ]) {
      const path = `/registry/vms/${encodeURIComponent(id)}`;
      assert.equal((await register(id)).status, 201, id);
      assert.equal(((await call(url, 'GET', path)).body as Vm).id, id);
      assert.equal(((await call(url, 'POST', `${path}/heartbeat`)).body as Vm).id, id);
      assert.equal((await call(url, 'PATCH', path, { body: { name: id } })).status, 200);
      assert.equal((await call(url, 'DELETE', path)).status, 200);
    }
  });

  await t.test('lists are newest first and discover is oldest first', async () => {
    for (const id of ['g1', 'g2', 'g3']) await register(id, { role: 'golden' });
    await call(url, 'PATCH', '/registry/vms/g1', { body: { name: 'changed' } });
    assert.deepEqual(await idsOf('/registry/vms?role=golden'), ['g3', 'g2', 'g1']);
    assert.deepEqual(await idsOf('/registry/discover/golden'), ['g1', 'g2', 'g3']);
  });

  await t.test(
    'filters narrow by role and by status; an empty one is none, an unknown value finds nobody',
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

  await t.test('an answer has no more fields than the original, whatever was asked before', async () => {
    await register('bare');
    await call(url, 'GET', '/registry/vms?include=liveness');
    const { body } = await call(url, 'GET', '/registry/vms/bare');
    assert.equal(Object.hasOwn(body as object, 'stale'), false);
  });

  await t.test('an unknown route is 404 and a known one with another method 405, both with an error', async () => {
    for (const path of [
      '/',
      '/registry',
      '/registry/vm',
      '/Registry/vms',
      '/registry/vms/a/b',
      '/registry/discover/',
    ]) {
      const answer = await call(url, 'GET', path);
      assert.equal(answer.status, 404, path);
      errorOf(answer);
    }
    const answer = await call(url, 'DELETE', '/registry/discover/infra');
    assert.equal(answer.status, 405);
    assert.match(answer.headers.get('allow') ?? '', /\bGET\b/);
    errorOf(answer);
  });
});

test('a VM that is not heard for the lease leaves discover and status=running, and a beat brings it back', async (t) => {
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

test('with a token everything but health asks for it', async (t) => {
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
