import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import { logMask } from '../../../daemon/process/log.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { call } from '../../helpers/http.ts';
import { exchange } from '../../helpers/raw.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

type Line = Record<string, unknown>;
const audited = ({ logged }: ServedApp) =>
  logged.map((line) => JSON.parse(line) as Line).filter((line) => line.audit === true);

test('each change and each refusal is one audit line with principal, address, request and outcome', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const headers = { authorization: 'Bearer s3cret', 'x-request-id': 'mine-1' };
  await call(app.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }), headers });
  await call(app.url, 'POST', '/registry/vms/vm-1/heartbeat', { headers });
  await call(app.url, 'GET', '/registry/vms', { headers });
  await call(app.url, 'DELETE', '/registry/vms/nobody', { headers });
  await call(app.url, 'GET', '/registry/vms', { headers: { authorization: 'Bearer wrong-s3cret' } });
  const lines = await until('the lines', () => {
    const found = audited(app);
    return found.length === 3 ? found : undefined;
  });
  const seen = lines.map(({ by, from, method, vm, status, code, msg }) => [by, from, method, vm, status, code, msg]);
  assert.deepEqual(seen, [
    ['VERS_AUTH_TOKEN', '127.0.0.1', 'POST', 'vm-1', 201, undefined, 'change'],
    ['VERS_AUTH_TOKEN', '127.0.0.1', 'DELETE', 'nobody', 404, 'NOT_FOUND', 'refused'],
    ['anonymous', '127.0.0.1', 'GET', undefined, 401, 'UNAUTHORIZED', 'refused'],
  ]);
  assert.equal(lines[0]!.requestId, 'mine-1');
  assert.doesNotMatch(app.logged.join(''), /s3cret/);
});

test('the audit line of a change of a token names that token, and every line names the token of the client', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const root = { authorization: 'Bearer s3cret' };
  const made = await call(app.url, 'POST', '/registry/tokens', {
    body: { name: 'reader', scope: 'read' },
    headers: root,
  });
  const { token } = made.body as { token: string };
  await call(app.url, 'DELETE', '/registry/vms/vm-1', { headers: { authorization: `Bearer ${token}` } });
  await call(app.url, 'DELETE', '/registry/tokens/reader', { headers: root });
  const lines = await until('the lines', () => (audited(app).length === 3 ? audited(app) : undefined));
  assert.deepEqual(
    lines.map(({ by, method, tokenName, vm, status }) => [by, method, tokenName, vm, status]),
    [
      ['VERS_AUTH_TOKEN', 'POST', 'reader', undefined, 201],
      ['reader', 'DELETE', undefined, 'vm-1', 403],
      ['VERS_AUTH_TOKEN', 'DELETE', 'reader', undefined, 200],
    ],
  );
});

test('a secret in a query, a path or a request id is neither logged nor sent back', async (t) => {
  const app = await serveApp(t);
  const secret = `vreg_${'a'.repeat(43)}`;
  await call(app.url, 'POST', '/registry/vms?access_token=canary&role=infra&apiKey=canary&%74oken=canary', {
    body: {},
  });
  const refused = await call(app.url, 'DELETE', `/registry/tokens/${secret}`, { headers: { 'x-request-id': secret } });
  assert.ok(!JSON.stringify([refused.body, [...refused.headers]]).includes(secret));
  const lines = await until('the lines', () => (audited(app).length === 2 ? audited(app) : undefined));
  assert.equal(lines[0]!.url, '/registry/vms?access_token=***&role=infra&apiKey=***&token=***');
  assert.ok(!app.logged.join().includes(secret));
});

test('a request that is refused before its handler is called has an audit line', async (t) => {
  const app = await serveApp(t);
  await call(app.url, 'POST', '/nowhere');
  await call(app.url, 'POST', '/registry/vms', { body: '{' });
  const lines = await until('the lines', () => (audited(app).length === 2 ? audited(app) : undefined));
  assert.deepEqual(
    lines.map(({ code, status }) => [code, status]),
    [
      ['NOT_FOUND', 404],
      ['INVALID', 400],
    ],
  );
});

test("every response has a request id: the client's own, or a unique one", async (t) => {
  const { url } = await serveApp(t);
  const nameOf = async (given?: string) =>
    (await fetch(`${url}/health`, { headers: given === undefined ? {} : { 'x-request-id': given } })).headers.get(
      'x-request-id',
    )!;
  assert.equal(await nameOf('trace/1:a=b'), 'trace/1:a=b');
  const made = [await nameOf(), await nameOf(), await nameOf('has a space'), await nameOf('x'.repeat(129))];
  assert.equal(new Set(made).size, 4);
  for (const name of made) assert.match(name, /^[0-9a-f]{12}-\d+$/);
});

test('a URL built to slow down redaction is logged quickly', { timeout: 10_000 }, async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  // As long as Node's limit allows. A regular expression that backtracks would take a minute for each.
  for (const part of ['?key', '&token', '&key=', '?%6', 'vreg_'])
    assert.equal((await call(app.url, 'GET', `/x?${part.repeat(Math.floor(15_000 / part.length))}`)).status, 401);
});

test('a change whose client left before it was durable has its audit line, whether it succeeded or failed', async (t) => {
  const store = new GatedStore();
  const app = await serveApp(t, { store });
  const post = (id: string) => {
    const body = JSON.stringify(aVm({ id }));
    const socket = connect(app.at);
    socket.write(`POST /registry/vms HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    return socket;
  };
  const gone = [post('made'), post('refused')];
  await until('both to be on their way to the disk', () => store.waiting === 2);
  for (const socket of gone) socket.destroy();
  const connections = () => new Promise<number>((resolve) => app.server.getConnections((_, count) => resolve(count)));
  await until('the connections to be gone', async () => (await connections()) === 0);
  assert.deepEqual(audited(app), []);
  await store.release(1);
  store.fail(new VregError('STORE_FULL', 'the disk is full'));
  const lines = await until('the lines', () => (audited(app).length === 2 ? audited(app) : undefined));
  assert.deepEqual(
    lines.map(({ vm, status, code }) => [vm, status, code]),
    [
      ['made', 201, undefined],
      ['refused', 507, 'STORE_FULL'],
    ],
  );
});

for (const [what, bytes, status, code] of [
  ['that does not come', 'Content-Length: 50\r\n\r\n{', 408, 'REQUEST_TIMEOUT'],
  ['that is broken', 'Transfer-Encoding: chunked\r\n\r\nzz\r\n', 400, 'INVALID'],
] as const) {
  test(`a request with a body ${what} has one audit line, with its request id and its response`, async (t) => {
    const app = await serveApp(t, { token: 's3cret', limits: { requestTimeout: 200 } });
    const head = 'PUT /registry/vms/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\r\nX-Request-Id: mine\r\n';
    const [answer] = await exchange(app.at, head + bytes);
    assert.deepEqual([answer?.status, answer?.headers['x-request-id']], [status, 'mine']);
    // The app's own error for the request comes later, and must not add a line.
    await exchange(app.at, 'CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: last\r\n\r\n');
    assert.deepEqual(
      audited(app).map((line) => [line.requestId, line.by, line.method, line.url, line.status, line.code]),
      [
        ['mine', 'VERS_AUTH_TOKEN', 'PUT', '/registry/vms/a', status, code],
        ['last', 'anonymous', 'CONNECT', 'a:1', 404, 'NOT_FOUND'],
      ],
    );
  });
}

test('a malformed request behind another one has its request id in its audit line', async (t) => {
  const app = await serveApp(t);
  const held = 'GET /registry/discover/worker?wait=50s HTTP/1.1\r\nHost: a\r\n\r\n';
  const broken =
    'PUT /registry/vms/a HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n';
  const answers = exchange(app.at, held + broken);
  await until('the first to be held', () => app.registry.events.subscriberCount > 0);
  await app.registry.register(aVm({ id: 'b' }));
  assert.equal((await answers)[1]?.headers['x-request-id'], 'mine');
  assert.deepEqual(
    audited(app).map((line) => [line.requestId, line.method, line.url, line.status]),
    [['mine', 'PUT', '/registry/vms/a', 400]],
  );
});

test('long texts are shortened in the log', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  await call(app.url, 'DELETE', `/registry/vms/${'%01'.repeat(5000)}`);
  const [line] = await until('the line', () => (audited(app).length === 1 ? audited(app) : undefined));
  assert.deepEqual([String(line!.url).length, String(line!.vm).length, line!.status], [1025, 1025, 401]);
  logMask.add('chosen-token');
  await call(app.url, 'DELETE', `/registry/vms/${'a'.repeat(1005)}chosen%2Dtoken${'b'.repeat(20)}`);
  const [, cut] = await until('its line', () => (audited(app).length === 2 ? audited(app) : undefined));
  assert.match(String(cut!.url), /aa\*\*\*b+…$/);
});

test('bytes that are not an HTTP request are refused with an audit line and a request id', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const [broken] = await exchange(app.at, 'nonsense\r\n\r\n');
  const secret = `vreg_${'a'.repeat(43)}`;
  const [unknown] = await exchange(app.at, `BREW /registry/vms?token=${secret} HTTP/1.1\r\nHost: a\r\n\r\n`);
  const lines = audited(app);
  assert.deepEqual(
    lines.map(({ by, from, method, url, status, code, msg }) => [by, from, method, url, status, code, msg]),
    [
      ['anonymous', '127.0.0.1', undefined, undefined, 400, 'INVALID', 'refused'],
      ['anonymous', '127.0.0.1', 'BREW', '/registry/vms?token=***', 405, 'METHOD_NOT_ALLOWED', 'refused'],
    ],
  );
  assert.deepEqual(
    [broken, unknown].map((answer) => answer?.headers['x-request-id']),
    lines.map(({ requestId }) => requestId),
  );
});

test('no audit line contains a token, whether as an id, as a name or percent-encoded', async (t) => {
  const app = await serveApp(t);
  const secret = `vreg_${'a'.repeat(43)}`;
  await call(app.url, 'POST', '/registry/vms', { body: aVm({ id: secret }) });
  await call(app.url, 'DELETE', `/registry/vms/%76reg_${'a'.repeat(43)}`);
  await call(app.url, 'DELETE', `/registry/tokens?enrolledBy=${secret}`);
  await call(app.url, 'DELETE', `/registry/tokens?enrolledBy=vreg%5f${'a'.repeat(43)}`);
  const named = await call(app.url, 'POST', '/registry/tokens', { body: { name: `x-${secret}`, scope: 'admin' } });
  assert.deepEqual([named.status, (named.body as { field: string }).field], [400, 'name']);
  const lines = await until('the lines', () => (audited(app).length === 5 ? audited(app) : undefined));
  assert.doesNotMatch(app.logged.join(''), /a{43}/);
  assert.deepEqual(
    lines.map(({ vm, tokenName }) => vm ?? tokenName),
    ['vreg_***', 'vreg_***', 'vreg_***', 'vreg_***', undefined],
  );
});

test('the refusal of an expired token names it, and a replaced incarnation is logged as a change', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const headers = { authorization: 'Bearer s3cret' };
  await call(app.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }), headers });
  const body = { name: 'brief', scope: 'write', expiresIn: 5 };
  const { token } = (await call(app.url, 'POST', '/registry/tokens', { body, headers })).body as { token: string };
  const own = { authorization: `Bearer ${token}` };
  const beat = { next: `1.${'a'.repeat(32)}`, replace: true };
  const taken = await call(app.url, 'POST', '/registry/vms/vm-1/heartbeat', { headers: own, body: beat });
  assert.equal(taken.status, 200, JSON.stringify(taken.body));
  app.clock.pass(5000);
  await call(app.url, 'GET', '/registry/vms', { headers: own });
  const lines = await until('the lines', () => (audited(app).length === 4 ? audited(app) : undefined));
  assert.deepEqual(
    lines.slice(2).map(({ by, vm, status }) => [by, vm, status]),
    [
      ['brief', 'vm-1', 200],
      ['brief', undefined, 401],
    ],
  );
});
