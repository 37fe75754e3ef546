/** HEAD, and responses without a body: the headers of the GET, nothing after them, and a connection that stays usable. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { loadPage } from '../../../daemon/http/page.ts';
import { ROUTES } from '../../../daemon/http/routes.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { Connection } from '../../helpers/connection.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

/** A store whose backup is a small file. */
class CopiedStore extends MemoryStore {
  override async backup(path?: string): Promise<void> {
    writeFileSync(path!, 'a copy of the registry');
  }
}

async function startApp(t: TestContext, dataDir = tempDir(t)): Promise<ServedApp> {
  // The uptime is part of some responses, and its digits of their length.
  t.mock.method(process, 'uptime', () => 12.5);
  const app = await serveApp(t, { store: new CopiedStore(), dataDir, token: 's3cret' });
  await app.registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  await app.registry.register(aVm({ id: 'vm-2', role: 'worker', parentId: 'vm-1' }));
  return app;
}

const request = (method: string, target: string, ...headers: readonly string[]) =>
  [`${method} ${target} HTTP/1.1`, 'Host: a', 'Authorization: Bearer s3cret', ...headers, '', ''].join('\r\n');

/** Headers without those that differ from request to request, or that only frame a body. */
function comparable({ date, 'x-request-id': id, 'transfer-encoding': coding, ...headers }: Record<string, string>) {
  return headers;
}

const ICON = [...loadPage().keys()].find((name) => name.endsWith('.svg'))!;

const concrete = (path: string) =>
  path
    .replace(/:id|:other/g, 'vm-1')
    .replace(':role', 'worker')
    .replace(':file', ICON);

for (const { path, prefersHtml } of ROUTES.filter(({ method }) => method === 'GET')) {
  test(`HEAD ${path} has the status and the headers of the GET and no body`, async (t) => {
    const dataDir = tempDir(t);
    const app = await startApp(t, dataDir);
    const accept = prefersHtml ? ['Accept: text/html'] : [];
    const gotten = Connection.open(t, app.at).send(request('GET', concrete(path), ...accept));
    const get = path.endsWith('/events') ? await gotten.responseHead() : await gotten.response();
    assert.equal(get.status, path === '/ui' ? 308 : 200);
    // The metrics count the requests for them, which changes their length.
    if (path === '/metrics') delete get.headers['content-length'];
    gotten.socket.destroy();
    // Two backups may be in progress, so the first one has to be over.
    await until('the copy of a backup to be removed', () => readdirSync(dataDir).length === 0);
    // Two on one connection, and a GET behind them: a body would be taken for the next response.
    const asked = Connection.open(t, app.at);
    asked.send(request('HEAD', concrete(path), ...accept), request('HEAD', concrete(path), ...accept));
    asked.send(request('GET', '/registry/whoami', 'Connection: close'));
    const heads = await asked.responses(['HEAD', 'HEAD']);
    for (const head of heads) {
      if (path === '/metrics') delete head.headers['content-length'];
      assert.equal(head.status, get.status);
      assert.deepEqual(comparable(head.headers), comparable(get.headers));
    }
    const [whoami, ...more] = await asked.remaining();
    assert.match(whoami!.text, /"name":"VERS_AUTH_TOKEN"/);
    assert.equal(more.length, 0);
    await until('no subscriber to be left', () => app.registry.events.subscriberCount === 0);
  });
}

test('HEAD of a refused request has the status and the content-length of the GET', async (t) => {
  const app = await startApp(t);
  for (const [target, status] of [
    ['/registry/vms/nobody', 404],
    ['/nowhere', 404],
    ['/registry/tokens/x', 405],
    ['/registry/vms/%zz', 400],
    ['/registry/vms?role=%zz', 400],
    ['/registry/vms?limit=none', 400],
    ['/registry/discover/worker?wait=never', 400],
    ['/registry/events?heartbeats=x', 400],
  ] as const) {
    const connection = Connection.open(t, app.at);
    connection.send(request('GET', target), request('HEAD', target), request('GET', '/registry/whoami'));
    const [get, head, last] = await connection.responses(['GET', 'HEAD', 'GET']);
    assert.deepEqual([get?.status, head?.status, last?.status], [status, status, 200], target);
    assert.equal(head?.headers['content-type'], get?.headers['content-type'], target);
    // The message of a 404 and a 405 names the method, which is a letter longer.
    const difference = Number(head?.headers['content-length']) - Number(get?.headers['content-length']);
    assert.ok(difference === 0 || difference === 1, `${target}: ${difference}`);
    connection.socket.destroy();
  }
});

test('HEAD without a token is 401, without a body', async (t) => {
  const app = await startApp(t);
  const connection = Connection.open(t, app.at);
  for (const target of ['/registry/vms', '/registry/events', '/registry/discover/worker?wait=50s', '/nowhere']) {
    connection.send(`HEAD ${target} HTTP/1.1\r\nHost: a\r\n\r\n`);
    const { status, headers } = await connection.response('HEAD');
    assert.deepEqual([status, headers['www-authenticate']], [401, 'Bearer'], target);
  }
});

test('HEAD of a large list has the length of the GET, and of a list of unknown length neither a body nor chunks', async (t) => {
  const app = await startApp(t);
  const metadata = { pad: 'x'.repeat(100_000) };
  for (let n = 0; n < 20; n++) await app.registry.register(aVm({ id: `large-${n}`, metadata }));
  for (const target of ['/registry/vms', '/registry/vms?include=liveness', '/registry/events?since=start']) {
    const connection = Connection.open(t, app.at);
    if (!target.includes('events')) {
      connection.send(request('GET', target));
      const get = await connection.response();
      assert.match(get.text, /"count":22\}$/);
      connection.send(request('HEAD', target));
      const head = await connection.response('HEAD');
      assert.equal(head.status, 200);
      const { length } = get.text;
      const announced = head.headers['content-length'];
      assert.ok(announced === undefined || Number(announced) === length, `${target}: ${announced}`);
      if (!target.includes('include')) assert.equal(Number(announced), length);
    }
    connection.send(request('HEAD', target), request('GET', '/registry/whoami'));
    const [again, whoami] = await connection.responses(['HEAD', 'GET']);
    assert.equal(again?.status, 200);
    assert.match(whoami!.text, /"name":"VERS_AUTH_TOKEN"/, target);
    connection.socket.destroy();
  }
});

test('HEAD of a long poll is answered immediately and leaves no subscriber', { timeout: 20_000 }, async (t) => {
  const app = await startApp(t);
  const connection = Connection.open(t, app.at);
  connection.send(request('HEAD', '/registry/discover/golden?wait=50s'), request('GET', '/registry/whoami'));
  const [head, whoami] = await connection.responses(['HEAD', 'GET']);
  assert.deepEqual([head?.status, head?.headers['content-length']], [200, '{"vms":[],"count":0}'.length.toString()]);
  assert.match(whoami!.text, /"name":"VERS_AUTH_TOKEN"/);
  assert.equal(app.registry.events.subscriberCount, 0);
});

test('HEAD over HTTP/1.0 has no body and no transfer coding', async (t) => {
  const app = await startApp(t);
  for (const target of ['/health', '/registry/vms?include=liveness', '/registry/events', '/nowhere']) {
    const lines = [`HEAD ${target} HTTP/1.0`, 'Authorization: Bearer s3cret', '', ''];
    const connection = Connection.open(t, app.at).send(lines.join('\r\n'));
    const head = await connection.response('HEAD');
    assert.equal(head.status, target === '/nowhere' ? 404 : 200, target);
    assert.equal(head.headers['transfer-encoding'], undefined, target);
    assert.equal((await connection.closed).length, 0, target);
  }
});

test('204 has no body, no content-length and no content-type, and the connection stays usable', async (t) => {
  const app = await serveApp(t, { token: 's3cret', corsOrigins: ['https://dash.example'] });
  const preflight = ['Origin: https://dash.example', 'Access-Control-Request-Method: DELETE'];
  const connection = Connection.open(t, app.at);
  connection.send(request('OPTIONS', '/registry/vms/a', ...preflight), request('GET', '/registry/whoami'));
  const answered = await connection.response('HEAD');
  assert.equal(answered.status, 204);
  for (const name of ['content-length', 'content-type', 'transfer-encoding'])
    assert.equal(answered.headers[name], undefined, name);
  assert.match((await connection.response()).text, /"name":"VERS_AUTH_TOKEN"/);
});
