/** The routes of the original registry on the real daemon, as a client of that registry finds them. */
import assert from 'node:assert/strict';
import test from 'node:test';
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

  await t.test('health returns ok and the uptime in seconds', async () => {
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

  await t.test('services and metadata that were not given are absent from the entry', async () => {
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

  await t.test('text is trimmed, unknown top-level keys are dropped, and unknown nested keys are kept', async () => {
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

  await t.test('a body is parsed as JSON, whatever content type curl or fetch sends', async () => {
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

  await t.test(
    'PATCH changes the given fields, replaces services and metadata entirely, and ignores unknown fields',
    async () => {
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
    },
  );

  await t.test('PATCH without known fields is 200 and returns the unchanged entry', async () => {
    const { body: before } = await register('untouched');
    for (const body of [{}, { color: 'red' }]) {
      const answer = await call(url, 'PATCH', '/registry/vms/untouched', { body });
      assert.deepEqual([answer.status, answer.body], [200, before]);
    }
  });

  await t.test(
    'PATCH with an invalid field is 400 and changes nothing; PATCH of an unknown id is always 404',
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

  await t.test('a heartbeat changes only lastSeen, with or without a content type', async () => {
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

  await t.test('get, update, remove and heartbeat of an unknown VM are 404', async () => {
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
