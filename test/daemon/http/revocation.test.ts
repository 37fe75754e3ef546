/** A token that is revoked, or expires, while its request is on the way: the request does nothing and reveals nothing more. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import test, { type TestContext } from 'node:test';
import type { ForEach } from '../../../daemon/store/store.ts';
import { serveApp } from '../../helpers/app.ts';
import { Connection } from '../../helpers/connection.ts';
import { FakeCluster } from '../../helpers/fake-cluster.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { call } from '../../helpers/http.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const ROOT = { authorization: 'Bearer s3cret' };

function head(line: string, token: string, ...headers: readonly string[]): string {
  return [`${line} HTTP/1.1`, 'Host: a', `Authorization: Bearer ${token}`, ...headers, '', ''].join('\r\n');
}

/** An app with a token, and the two ways in which the token ends. */
async function withToken(
  t: TestContext,
  scope: 'read' | 'write' | 'admin',
  options: Parameters<typeof serveApp>[1] = {},
) {
  const app = await serveApp(t, { token: 's3cret', streams: { keepAlive: 20 }, ...options });
  const create = async (name: string) => {
    const { tokens } = app.authenticator;
    const { token } = await tokens.create({ name, scope, expiresIn: 60 }, 'test');
    return { token, isUsed: () => tokens.named(name)?.info.lastUsedAt !== undefined };
  };
  const ends: Record<'revoked' | 'expired', (name: string) => Promise<void>> = {
    revoked: async (name) => {
      const { status } = await call(app.url, 'DELETE', `/registry/tokens/${name}`, { headers: ROOT });
      assert.equal(status, 200);
    },
    expired: async () => app.clock.pass(60_000),
  };
  return { app, create, ends };
}

const BODY = JSON.stringify(aVm({ id: 'late' }));

for (const how of ['revoked', 'expired'] as const) {
  test(`a chunked body that ends after its token was ${how} changes nothing`, async (t) => {
    const { app, create, ends } = await withToken(t, 'write');
    const { token, isUsed } = await create('writer');
    const connection = Connection.open(t, app.at);
    connection.send(
      `${head('POST /registry/vms', token, 'Transfer-Encoding: chunked')}${BODY.length.toString(16)}\r\n${BODY}\r\n`,
    );
    await until('the head to be read', isUsed);
    await ends[how]('writer');
    connection.send('0\r\n\r\n');
    const response = await connection.response('POST');
    assert.deepEqual([response.status, response.headers['www-authenticate']], [401, 'Bearer']);
    assert.equal(app.registry.has('late'), false);
  });

  test(`a body that was asked for with 100 Continue before its token was ${how} changes nothing`, async (t) => {
    const { app, create, ends } = await withToken(t, 'write');
    const { token } = await create('writer');
    const connection = Connection.open(t, app.at);
    connection.send(head('PUT /registry/vms/late', token, 'Expect: 100-continue', `Content-Length: ${BODY.length}`));
    assert.equal((await connection.response('PUT')).status, 100);
    await ends[how]('writer');
    connection.send(BODY);
    assert.equal((await connection.response('PUT')).status, 401);
    assert.equal(app.registry.has('late'), false);
  });

  test(`requests that wait behind another one on their connection are refused once their token is ${how}`, async (t) => {
    const { app, create, ends } = await withToken(t, 'write');
    await app.registry.register(aVm({ id: 'victim' }));
    const { token } = await create('writer');
    const connection = Connection.open(t, app.at);
    connection.send(
      head('GET /registry/discover/golden?wait=20s', 's3cret'),
      head('POST /registry/vms', token, `Content-Length: ${BODY.length}`) + BODY,
      head('GET /registry/vms', token),
      head('DELETE /registry/vms/victim', token),
      head('GET /registry/vms', 's3cret'),
    );
    await until('the long poll to wait', () => app.registry.events.subscriberCount === 1);
    await ends[how]('writer');
    await app.registry.register(aVm({ id: 'awaited', role: 'golden' }));
    const responses = await connection.responses(['GET', 'POST', 'GET', 'DELETE', 'GET']);
    assert.deepEqual(
      responses.map(({ status }) => status),
      [200, 401, 401, 401, 200],
    );
    assert.match(responses[4]!.text, /"count":2\}$/);
    assert.deepEqual([app.registry.has('late'), app.registry.has('victim')], [false, true]);
  });

  test(`a request of a kept connection is refused once its token is ${how}`, async (t) => {
    const { app, create, ends } = await withToken(t, 'read');
    const { token } = await create('reader');
    const connection = Connection.open(t, app.at).send(head('GET /registry/vms', token));
    assert.equal((await connection.response()).status, 200);
    await ends[how]('reader');
    connection.send(head('GET /registry/vms', token));
    assert.equal((await connection.response()).status, 401);
  });

  test(`a long poll that ends after its token was ${how} does not name a VM`, async (t) => {
    const { app, create, ends } = await withToken(t, 'read');
    const { token } = await create('reader');
    const connection = Connection.open(t, app.at).send(head('GET /registry/discover/golden?wait=20s', token));
    await until('the long poll to wait', () => app.registry.events.subscriberCount === 1);
    await ends[how]('reader');
    await app.registry.register(aVm({ id: 'secret', role: 'golden' }));
    const response = await connection.response();
    assert.equal(response.status, 401);
    assert.doesNotMatch(response.text, /secret/);
    assert.equal(app.registry.events.subscriberCount, 0);
  });

  test(`an event stream ends when its token is ${how}, without later events`, async (t) => {
    const { app, create, ends } = await withToken(t, 'read');
    const { token } = await create('reader');
    const connection = Connection.open(t, app.at).send(head('GET /registry/events', token));
    await connection.received(/event: synced/);
    await app.registry.register(aVm({ id: 'before' }));
    await connection.received(/"id":"before"/);
    await ends[how]('reader');
    await app.registry.register(aVm({ id: 'after' }));
    assert.doesNotMatch((await connection.response()).text, /"id":"after"/);
    await until('no subscriber to be left', () => app.registry.events.subscriberCount === 0);
  });
}

test('a list that is being sent ends when its token is revoked', async (t) => {
  const { app, create, ends } = await withToken(t, 'read');
  const metadata = { pad: 'x'.repeat(900_000) };
  for (let n = 0; n < 16; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  for (const target of ['/registry/vms', '/registry/vms?include=liveness']) {
    const { token } = await create('reader');
    const connection = Connection.open(t, app.at).send(head(`GET ${target}`, token));
    await once(connection.socket, 'data');
    connection.socket.pause();
    await ends.revoked('reader');
    connection.socket.resume();
    assert.doesNotMatch((await connection.closed).toString('latin1'), /"count":16\}/, target);
  }
});

test('a history that is read while its token is revoked is not sent', async (t) => {
  const store = new MemoryStore();
  const { app, create, ends } = await withToken(t, 'read', { store });
  const { token } = await create('reader');
  await app.registry.register(aVm());
  let proceed = () => {};
  const reading = new Promise<void>((started) => {
    const read = store.history.bind(store);
    store.history = async (...query) => {
      started();
      await new Promise<void>((resolve) => (proceed = resolve));
      return read(...query);
    };
  });
  const headers = { authorization: `Bearer ${token}` };
  const answer = call(app.url, 'GET', '/registry/vms/vm-1/history', { headers });
  await reading;
  await ends.revoked('reader');
  proceed();
  assert.equal((await answer).status, 401);
});

test('a new request with a revoked token is refused while an older one is still waiting', async (t) => {
  const store = new GatedStore();
  const { app, create, ends } = await withToken(t, 'write', { store });
  const { token } = await store.settle(create('writer'));
  const waiting = Connection.open(t, app.at);
  waiting.send(head('POST /registry/vms', token, `Content-Length: ${BODY.length}`) + BODY);
  await until('the change to wait for the disk', () => store.waiting === 1);
  // The revocation takes effect at once, although the disk is slow.
  const revoking = ends.revoked('writer');
  const statusOf = async (bytes: string) => {
    const connection = Connection.open(t, app.at).send(bytes);
    const { status } = await connection.response();
    connection.socket.destroy();
    return status;
  };
  await until('the revocation', async () => (await statusOf(head('GET /registry/vms', token))) === 401);
  assert.equal(await statusOf(head('DELETE /registry/vms/late', token)), 401);
  await store.settle(revoking);
  assert.equal((await waiting.response('POST')).status, 201);
  assert.equal(app.registry.has('late'), true);
});

for (const [request, method, path, body] of [
  ['a PUT', 'PUT', '/registry/vms/new', aVm({ id: 'new', name: 'changed' })],
  ['a DELETE', 'DELETE', '/registry/vms/new', undefined],
  ['a PATCH', 'PATCH', '/registry/vms/new', { name: 'changed' }],
  ['a batch of heartbeats', 'POST', '/registry/heartbeats', { ids: ['new'] }],
] as const) {
  test(`${request} that waits for a VM of another replica changes nothing if its token was revoked there`, async (t) => {
    const cluster = new FakeCluster();
    const stores = [cluster.replica(), cluster.replica()] as const;
    const { app: there, create, ends } = await withToken(t, 'write', { store: stores[0] });
    const { app: here } = await withToken(t, 'write', { store: stores[1] });
    const { token } = await create('writer');
    stores[1].deliver();
    await there.registry.register(aVm({ id: 'new' }));
    await ends.revoked('writer');
    const headers = { authorization: `Bearer ${token}` };
    assert.equal((await call(here.url, method, path, { body, headers })).status, 401);
    stores[0].deliver();
    assert.equal(there.registry.get('new').vm.name, 'one');
    assert.equal(here.registry.heartbeatCount, 0);
  });
}

for (const [what, scope, path, body] of [
  ['a registration', 'write', '/registry/vms', aVm({ id: 'late' })],
  ['an import', 'admin', '/registry/import', [aVm({ id: 'late' })]],
  ['the creation of a token', 'admin', '/registry/tokens', { name: 'late', scope: 'admin' }],
] as const) {
  test(`${what} that waits for another import changes nothing if its token was revoked meanwhile`, async (t) => {
    const store = new GatedStore();
    const { app, create } = await withToken(t, scope, { store });
    const { token, isUsed } = await store.settle(create('writer'));
    const headers = { authorization: `Bearer ${token}` };
    const forEach: ForEach = async (items, act) => items.forEach(act);
    const importing = app.registry.import([aVm({ id: 'imported' })], { forEach });
    await until('the commit of the import', () => store.waiting === 1);
    const registering = call(app.url, 'POST', path, { body, headers });
    await until('the request', isUsed);
    const revoking = app.authenticator.tokens.revoke('writer', 'test');
    await store.settle(importing);
    assert.equal((await store.settle(registering)).status, 401);
    assert.equal(app.registry.has('late'), false);
    await store.settle(revoking);
    assert.equal(app.authenticator.tokens.named('late'), undefined);
  });
}
