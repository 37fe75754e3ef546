/** `X-Request-Id`: the client's own if it is usable, else one that no other request has, on every response. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import { serveApp } from '../../helpers/app.ts';
import { askRaw, Connection } from '../../helpers/connection.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const GENERATED = /^[0-9a-f]{12}-\d+$/;
const TOKEN = 'Authorization: Bearer s3cret';
const ORIGIN = 'Origin: https://dash.example';

const request = (line: string, ...headers: readonly string[]) =>
  [line.includes('HTTP/') ? line : `${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');

test("a client's request id is sent back on every kind of response", async (t) => {
  const app = await serveApp(t, {
    token: 's3cret',
    corsOrigins: ['https://dash.example'],
    limits: { requestTimeout: 300 },
  });
  const id = 'X-Request-Id: trace/1:a=b+c@d.e_f-g';
  for (const [status, bytes] of [
    [200, request('GET /health', id)],
    [200, request('HEAD /health', id)],
    [200, request('GET /registry/vms', id, TOKEN)],
    [200, request('GET /registry/vms HTTP/1.0', id, TOKEN)],
    [200, request('GET /registry/events', id, TOKEN)],
    [200, request('HEAD /registry/events', id, TOKEN)],
    [204, request('OPTIONS /registry/vms', id, ORIGIN, 'Access-Control-Request-Method: GET')],
    [400, request('GET /registry/vms/%zz', id, TOKEN)],
    [400, request('GET /registry/vms?x=%zz', id, TOKEN)],
    [400, request('POST /registry/vms', id, TOKEN)],
    [400, `${request('POST /registry/vms', id, TOKEN, 'Content-Length: 1')}{`],
    [400, `${request('POST /registry/vms', id, TOKEN, 'Transfer-Encoding: chunked')}zz\r\n`],
    [400, request('GET /registry/vms', id, TOKEN, 'Host: b')],
    [401, request('GET /registry/vms', id)],
    [401, request('GET /registry/events', id)],
    [401, request('GET /nowhere', id)],
    [404, request('GET /nowhere', id, TOKEN)],
    [404, request('CONNECT a:1', id)],
    [405, request('PUT /registry/vms', id, TOKEN)],
    [408, `${request('POST /registry/vms', id, TOKEN, 'Content-Length: 9')}{`],
    [413, request('POST /registry/vms', id, TOKEN, 'Content-Length: 99999999')],
    [415, request('POST /registry/vms', id, TOKEN, 'Content-Length: 2', 'Content-Type: text/xml')],
    // One header more than allowed. Node 26 itself refuses more than that, before there is a request with an id.
    [431, request('GET /health', id, ...Array<string>(199).fill('X: y'))],
  ] as const) {
    const connection = Connection.open(t, app.at).send(bytes);
    const response = await connection.responseHead();
    assert.deepEqual([response.status, response.headers['x-request-id']], [status, 'trace/1:a=b+c@d.e_f-g'], bytes);
    connection.socket.destroy();
  }
});

test('100 Continue has no request id, and the final response has it', async (t) => {
  const app = await serveApp(t);
  const connection = Connection.open(t, app.at);
  connection.send(request('POST /registry/vms', 'X-Request-Id: mine', 'Expect: 100-continue', 'Content-Length: 2'));
  assert.equal((await connection.response('POST')).status, 100);
  connection.send('{}');
  const response = await connection.response('POST');
  assert.deepEqual([response.status, response.headers['x-request-id']], [400, 'mine']);
});

test('the response to a request without a usable id has a generated id', async (t) => {
  const app = await serveApp(t, { limits: { requestTimeout: 300 } });
  const seen = new Set<string>();
  for (const [status, bytes] of [
    [200, request('GET /health')],
    [404, request('GET /nowhere')],
    [405, request('PUT /registry/vms')],
    [405, request('BREW /registry/vms')],
    [404, request('CONNECT a:1')],
    [400, 'NONSENSE\r\n\r\n'],
    [400, 'GET /health HTTP/1.1\r\n\r\n'],
    [408, 'GET /hea'],
    [431, request('GET /health', `X: ${'x'.repeat(20_000)}`)],
    [400, request('GET /health', 'X-Request-Id: a\u0000b')],
    [200, request('GET /health', 'X-Request-Id: ')],
    [200, request('GET /health', 'X-Request-Id: \u00e9t\u00e9')],
    [200, request('GET /health', 'X-Request-Id: tab\there')],
    [200, request('GET /health', `X-Request-Id: ${'x'.repeat(129)}`)],
    [200, request('GET /health', `X-Request-Id: ${'x'.repeat(10_000)}`)],
    [200, request('GET /health', `X-Request-Id: vreg_${'a'.repeat(43)}`)],
  ] as const) {
    const connection = Connection.open(t, app.at).send(Buffer.from(bytes, 'latin1'));
    const { status: got, headers } = await connection.response();
    const name = JSON.stringify(bytes.slice(0, 80));
    assert.equal(got, status, name);
    assert.match(headers['x-request-id'] ?? '', GENERATED, name);
    assert.equal(seen.has(headers['x-request-id']!), false, name);
    seen.add(headers['x-request-id']!);
    connection.socket.destroy();
  }
});

test('an id of exactly 128 characters is kept', async (t) => {
  const app = await serveApp(t);
  const id = 'x'.repeat(128);
  const [response] = await askRaw(t, app.at, request('GET /health', 'Connection: close', `X-Request-Id: ${id}`));
  assert.equal(response?.headers['x-request-id'], id);
});

test('pipelined responses have the ids of their requests', async (t) => {
  const app = await serveApp(t);
  const connection = Connection.open(t, app.at);
  const ids = Array.from({ length: 50 }, (_, n) => `r-${n}`);
  connection.send(
    ids.map((id, n) => request(n % 7 === 0 ? 'GET /nowhere' : 'GET /health', `X-Request-Id: ${id}`)).join(''),
  );
  const responses = await connection.responses(ids);
  assert.deepEqual(
    responses.map(({ headers }) => headers['x-request-id']),
    ids,
  );
});

test('a malformed pipelined request is answered with its own id', async (t) => {
  const store = new GatedStore();
  const app = await serveApp(t, { store });
  const body = JSON.stringify(aVm());
  const connection = Connection.open(t, app.at);
  connection.send(request('POST /registry/vms', 'X-Request-Id: first', `Content-Length: ${body.length}`) + body);
  connection.send(`${request('PUT /registry/vms/a', 'X-Request-Id: second', 'Transfer-Encoding: chunked')}zz\r\n`);
  await until('the first to wait for the disk', () => store.waiting === 1);
  await store.release();
  const responses = await connection.responses(['POST', 'PUT']);
  assert.deepEqual(
    responses.map(({ status, headers }) => [status, headers['x-request-id']]),
    [
      [201, 'first'],
      [400, 'second'],
    ],
  );
  if (!connection.socket.closed) await once(connection.socket, 'close');
});
