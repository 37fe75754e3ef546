/** Which request target leads to which route and which VM id. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { Vm } from '../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { askRaw, type RawResponse } from '../../helpers/connection.ts';
import { aVm } from '../../helpers/vm.ts';

const TOKEN = 'Authorization: Bearer s3cret\r\n';

async function ask(t: TestContext, { at }: ServedApp, target: string, headers = '', method = 'GET') {
  const bytes = `${method} ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${headers}\r\n`;
  const responses = await askRaw(t, at, bytes, method);
  assert.equal(responses.length, 1, `${method} ${target}`);
  return responses[0] as RawResponse;
}

/** The `code` and `field` of an error response. */
function errorOf({ text }: RawResponse): { code: string; field?: string } {
  return JSON.parse(text) as { code: string; field?: string };
}

const isUnknownRoute = (response: RawResponse) =>
  response.status === 404 && errorOf(response).code === 'NOT_FOUND' && errorOf(response).field === undefined;
const isUnknownVm = (response: RawResponse) => response.status === 404 && errorOf(response).field === 'id';

test('a trailing slash, another case and duplicate slashes lead to no route', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  for (const target of [
    '/',
    '/health/',
    '/health//',
    '//health',
    '///health',
    '/HEALTH',
    '/Health',
    '/metrics/',
    '/registry',
    '/registry/',
    '/registry//vms',
    '/Registry/vms',
    '/registry/VMS',
    '/registry/vms//',
    '/registry/vms/vm-1/',
    '/registry/vms/vm-1/History',
    '/registry/vms/vm-1/history/',
    '/registry/vms/vm-1//history',
    '/registry/vms/vm-1/history/x',
    '/registry/discover/worker/',
    '/registry/discover/',
    '/health;a=b',
    '/health%3Fx=1',
    '/registry%2Fvms',
    '/health\\',
    '/./health',
    '/health/.',
    '/registry/../health',
    '/registry/vms/../vms',
  ])
    assert.ok(isUnknownRoute(await ask(t, app, target)), target);
});

test('an id that is empty, or in another case, is an unknown VM', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  for (const target of ['/registry/vms/', '/registry/vms/VM-1'])
    assert.ok(isUnknownVm(await ask(t, app, target)), target);
  for (const [method, target] of [
    ['DELETE', '/registry/vms/'],
    ['PATCH', '/registry/vms/'],
    ['POST', '/registry/vms//heartbeat'],
  ] as const)
    assert.ok(isUnknownVm(await ask(t, app, target, '', method)), `${method} ${target}`);
  assert.equal(app.registry.list({}).length, 1);
});

test('a query, an empty query and a fragment do not change the route', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  for (const target of [
    '/health?',
    '/health??',
    '/health?&',
    '/health?x',
    '/health?/../vms',
    '/health#x',
    '/health#?x=1',
  ])
    assert.match((await ask(t, app, target)).text, /"status":"ok"/, target);
  for (const target of ['/registry/vms/vm-1?', '/registry/vms/vm-1?x=/y', '/registry/vms/vm-1#x'])
    assert.equal((JSON.parse((await ask(t, app, target)).text) as Vm).id, 'vm-1', target);
  // A fragment is not part of the query, so the filter in it does not apply.
  assert.match((await ask(t, app, '/registry/vms#?role=infra')).text, /"count":1\}$/);
});

test('an absolute URL is routed by its path and its query, whatever its scheme and host', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  for (const target of [
    'http://a/health',
    'http://elsewhere.example:1/health?x=1',
    'HTTP://A/health',
    'https://a/health',
  ])
    assert.match((await ask(t, app, target)).text, /"status":"ok"/, target);
  assert.match((await ask(t, app, 'http://a/registry/vms/vm-1')).text, /"id":"vm-1"/);
  assert.match((await ask(t, app, 'http://a/registry/vms?role=infra')).text, /"count":0\}$/);
  assert.match((await ask(t, app, 'http://a/registry/vms?role=worker')).text, /"count":1\}$/);
  const twice = await ask(t, app, 'http://a/registry/vms?role=worker&role=infra');
  assert.deepEqual([twice.status, errorOf(twice).field], [400, 'role']);
  for (const target of ['http://a', 'http://a/', 'http://a?x', 'http://a/nowhere', 'ftp://a/health'])
    assert.ok(isUnknownRoute(await ask(t, app, target)), target);
  const broken = await ask(t, app, 'http://a/registry/vms/%zz');
  assert.deepEqual([broken.status, errorOf(broken).field], [400, 'url']);
});

test('targets that name no path are unknown routes or malformed, and never an answer of another route', async (t) => {
  const app = await serveApp(t);
  for (const [method, target] of [
    ['OPTIONS', '*'],
    ['GET', '*'],
    ['GET', '//a/health'],
    ['GET', '//registry/vms'],
    ['DELETE', '//registry/vms/a'],
    ['CONNECT', 'example.com:443'],
  ] as const)
    assert.ok(isUnknownRoute(await ask(t, app, target, '', method)), `${method} ${target}`);
  for (const target of ['health', 'example.com:80', '', '?x', '#x']) {
    const response = await ask(t, app, target);
    assert.deepEqual([response.status, errorOf(response).code], [400, 'INVALID'], target);
  }
});

test('invalid percent-encoding in the path is 400, and only after authentication', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  for (const target of [
    '/registry/vms/%',
    '/registry/vms/%z',
    '/registry/vms/%2',
    '/registry/vms/%zz',
    '/registry/vms/a%',
    '/registry/vms/%ff%fe',
    '/registry/vms/%C3',
    '/registry/vms/%C3%28',
    '/registry/vms/%ED%A0%80',
    '/registry/vms/%zz/history',
    '/registry/discover/%zz',
    '/health%',
    '/nowhere/%zz',
    '/%',
    '/registry/vms/%zz?role=%zz',
  ]) {
    for (const method of ['GET', 'DELETE']) {
      assert.equal((await ask(t, app, target, '', method)).status, 401, `${method} ${target}`);
      const wrong = await ask(t, app, target, 'Authorization: Bearer wrong\r\n', method);
      assert.ok(wrong.status === 401 || wrong.status === 429, `${method} ${target}`);
    }
    const response = await ask(t, app, target, TOKEN);
    assert.deepEqual(
      [response.status, errorOf(response).code, errorOf(response).field],
      [400, 'INVALID', 'url'],
      target,
    );
  }
});

test('the percent-encoding of a path is decoded exactly once', async (t) => {
  const app = await serveApp(t);
  for (const id of [
    'a/b',
    'a%2Fb',
    'a%252Fb',
    'a+b',
    'a b',
    'ö-日本-🦊',
    'a;b',
    ':id',
    '*',
    'a?b',
    'a#b',
    '%',
    '%zz',
    '100%25',
  ])
    await app.registry.register(aVm({ id }));
  for (const [segment, id] of [
    ['a%2Fb', 'a/b'],
    ['a%2fb', 'a/b'],
    ['a%252Fb', 'a%2Fb'],
    ['a%25252Fb', 'a%252Fb'],
    ['a+b', 'a+b'],
    ['a%2Bb', 'a+b'],
    ['a%20b', 'a b'],
    ['%C3%B6-%E6%97%A5%E6%9C%AC-%F0%9F%A6%8A', 'ö-日本-🦊'],
    ['%61;%62', 'a;b'],
    [':id', ':id'],
    ['%3Aid', ':id'],
    ['*', '*'],
    ['a%3Fb', 'a?b'],
    ['a%23b', 'a#b'],
    ['%25', '%'],
    ['%25zz', '%zz'],
    ['100%2525', '100%25'],
  ] as const) {
    const response = await ask(t, app, `/registry/vms/${segment}`);
    assert.equal(response.status, 200, segment);
    assert.equal((JSON.parse(response.text) as Vm).id, id, segment);
    const history = await ask(t, app, `/registry/vms/${segment}/history`);
    assert.match(history.text, /"registered"/, segment);
  }
  for (const target of ['/%68ealth', '/he%61lth', '/registry/%76ms'])
    assert.equal((await ask(t, app, target)).status, 200, target);
});

test('slashes, dots and NULs inside an id never lead to another route or another VM', async (t) => {
  const app = await serveApp(t);
  for (const id of ['vm-1', '.', '..', 'heartbeat', 'history', 'why']) await app.registry.register(aVm({ id }));
  for (const [segment, id] of [
    ['.', '.'],
    ['..', '..'],
    ['%2e%2e', '..'],
    ['%2E', '.'],
    ['heartbeat', 'heartbeat'],
    ['history', 'history'],
    ['why', 'why'],
  ] as const)
    assert.equal((JSON.parse((await ask(t, app, `/registry/vms/${segment}`)).text) as Vm).id, id, segment);
  for (const segment of [
    'vm-1%00',
    '%00vm-1',
    'vm-1%2F',
    'vm-1%2Fhistory',
    'vm-1%2fheartbeat',
    '..%2Fvms%2Fvm-1',
    '..%2f..%2fhealth',
    'vm-1%0A',
    'vm-1%20',
    '%20vm-1',
    'vm-1%E2%80%8B',
    '__proto__',
    'constructor',
    'toString',
  ])
    for (const method of ['GET', 'DELETE', 'HEAD']) {
      const response = await ask(t, app, `/registry/vms/${segment}`, '', method);
      assert.equal(response.status, 404, `${method} ${segment}`);
      if (method !== 'HEAD') assert.equal(errorOf(response).field, 'id', `${method} ${segment}`);
    }
  assert.equal(app.registry.list({}).length, 6);
});

test('an id as long as the header limit allows reaches its route', async (t) => {
  const app = await serveApp(t);
  const frame = 'GET /registry/vms/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'.length;
  const length = 16_384 - frame - 100;
  assert.ok(isUnknownVm(await ask(t, app, `/registry/vms/${'a'.repeat(length)}`)));
  assert.ok(isUnknownVm(await ask(t, app, `/registry/vms/${'%61'.repeat(Math.floor(length / 3))}`)));
  assert.ok(isUnknownVm(await ask(t, app, `/registry/vms/${'%F0%9F%A6%8A'.repeat(Math.floor(length / 12))}`)));
  assert.ok(isUnknownRoute(await ask(t, app, `/registry/${'a'.repeat(length)}`)));
  assert.ok(isUnknownRoute(await ask(t, app, '/a'.repeat(Math.floor(length / 2)))));
});
