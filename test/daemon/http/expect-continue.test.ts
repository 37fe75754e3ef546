/** `Expect: 100-continue`: the client is asked for its body only where the body will be read (RFC 9110, section 10.1.1). */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../../helpers/app.ts';
import { Connection } from '../../helpers/connection.ts';
import { call } from '../../helpers/http.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const MAX_BODY = 65_537;
const TOKEN = 'Authorization: Bearer s3cret';
const BODY = JSON.stringify(aVm());

function head(line: string, ...headers: readonly string[]): string {
  return [line.includes('HTTP/') ? line : `${line} HTTP/1.1`, ...headers, '', ''].join('\r\n');
}

const served = (t: TestContext) => serveApp(t, { token: 's3cret', limits: { maxBody: MAX_BODY } });

test('100 Continue comes before the body is sent, and the final response after it', async (t) => {
  const app = await served(t);
  for (const [n, expectation] of [
    '100-continue',
    '100-CONTINUE',
    ' 100-continue ',
    '100-continue, 100-continue',
  ].entries()) {
    const body = JSON.stringify(aVm({ id: `vm-${n}` }));
    const lines = ['Host: a', TOKEN, `Expect: ${expectation}`, `Content-Length: ${body.length}`];
    const connection = Connection.open(t, app.at).send(head('POST /registry/vms', ...lines));
    const interim = await connection.response('POST');
    assert.deepEqual([interim.status, interim.text], [100, ''], expectation);
    connection.send(body);
    assert.equal((await connection.response('POST')).status, 201, expectation);
  }
});

test('100 Continue is also sent for a chunked body', async (t) => {
  const app = await served(t);
  const lines = ['Host: a', TOKEN, 'Expect: 100-continue', 'Transfer-Encoding: chunked'];
  const connection = Connection.open(t, app.at).send(head('PUT /registry/vms/vm-1', ...lines));
  assert.equal((await connection.response('PUT')).status, 100);
  connection.send(`${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`);
  assert.equal((await connection.response('PUT')).status, 201);
});

test('a client that sends its body without waiting for 100 Continue is answered the same', async (t) => {
  const app = await served(t);
  const lines = ['Host: a', TOKEN, 'Expect: 100-continue', `Content-Length: ${BODY.length}`];
  const connection = Connection.open(t, app.at).send(head('POST /registry/vms', ...lines) + BODY);
  const statuses = [(await connection.response('POST')).status];
  if (statuses[0] === 100) statuses.push((await connection.response('POST')).status);
  assert.equal(statuses.at(-1), 201);
  connection.send(head('GET /health', 'Host: a', 'Connection: close'));
  const [health, ...more] = await connection.remaining();
  assert.deepEqual([health?.status, more.length], [200, 0]);
});

test('a request that is refused by its head is refused without 100 Continue', async (t) => {
  const app = await served(t);
  const { token } = await app.authenticator.tokens.create({ name: 'reader', scope: 'read' }, 'test');
  const length = `Content-Length: ${BODY.length}`;
  for (const [status, line, ...lines] of [
    [401, 'POST /registry/vms', 'Host: a', length],
    [401, 'POST /registry/vms', 'Host: a', 'Authorization: Bearer wrong', length],
    [401, 'POST /nowhere', 'Host: a', length],
    [403, 'POST /registry/vms', 'Host: a', `Authorization: Bearer ${token}`, length],
    [404, 'POST /nowhere', 'Host: a', TOKEN, length],
    [405, 'PUT /registry/vms', 'Host: a', TOKEN, length],
    [400, 'POST /registry/vms', TOKEN, length],
    [400, 'POST /registry/vms', 'Host: a', 'Host: b', TOKEN, length],
    [400, 'PUT /registry/vms/%zz', 'Host: a', TOKEN, length],
    [400, 'POST /registry/vms?include=%zz', 'Host: a', TOKEN, length],
    [413, 'POST /registry/vms', 'Host: a', TOKEN, `Content-Length: ${MAX_BODY + 1}`],
    [415, 'POST /registry/vms', 'Host: a', TOKEN, length, 'Content-Encoding: gzip'],
    [415, 'POST /registry/vms', 'Host: a', TOKEN, length, 'Content-Type: text/xml'],
    [415, 'POST /registry/vms', 'Host: a', TOKEN, 'Transfer-Encoding: chunked', 'Content-Type: text/xml'],
    [431, 'POST /registry/vms', 'Host: a', TOKEN, length, ...Array<string>(200).fill('X: y')],
  ] as const) {
    const connection = Connection.open(t, app.at).send(head(line, ...lines, 'Expect: 100-continue'));
    const response = await connection.response('POST');
    assert.equal(response.status, status, `${line} ${lines.slice(0, 4).join(', ')}`);
    // The body was never asked for. A client may send it, send a new request or leave.
    connection.socket.end();
    assert.ok((await connection.remaining()).every((each) => each.status === 400));
  }
  assert.equal(app.store.vms.size, 0);
});

test('a large body that does not fit the budget is refused with 429, without 100 Continue', async (t) => {
  const app = await serveApp(t);
  const large = head('POST /registry/vms', 'Host: a', 'Content-Length: 1048576');
  const expecting = large.replace(/\r\n$/, 'Expect: 100-continue\r\n\r\n');
  const refused = await until('the budget of large bodies to be used up', async () => {
    for (let n = 0; n < 16; n++) Connection.open(t, app.at).send(`${large}{`);
    const connection = Connection.open(t, app.at).send(expecting);
    const response = await connection.response('POST');
    return response.status === 100 ? undefined : response;
  });
  assert.deepEqual([refused.status, Number(refused.headers['retry-after']) > 0], [429, true]);
});

test('no 100 Continue is sent to HTTP/1.0, for a GET, or for another expectation', async (t) => {
  const app = await served(t);
  const length = `Content-Length: ${BODY.length}`;
  for (const [status, line, expectation] of [
    [201, 'POST /registry/vms HTTP/1.0', '100-continue'],
    [200, 'GET /registry/vms HTTP/1.1', '100-continue'],
    [200, 'PUT /registry/vms/vm-1 HTTP/1.1', '200-ok'],
    [200, 'PUT /registry/vms/vm-1 HTTP/1.1', 'x-100-continued'],
  ] as const) {
    const lines = ['Host: a', 'Connection: close', TOKEN, `Expect: ${expectation}`, length];
    const responses = await Connection.open(t, app.at)
      .send(head(line, ...lines) + BODY)
      .remaining();
    assert.deepEqual(
      responses.map((each) => each.status),
      [status],
      `${line} ${expectation}`,
    );
  }
});

test('100 Continue of a pipelined request comes after the response before it', async (t) => {
  const app = await served(t);
  const held = head('GET /registry/discover/golden?wait=50s', 'Host: a', TOKEN);
  const lines = ['Host: a', TOKEN, 'Expect: 100-continue', `Content-Length: ${BODY.length}`];
  const connection = Connection.open(t, app.at).send(held + head('POST /registry/vms', ...lines));
  await until('the long poll to wait', () => app.registry.events.subscriberCount > 0);
  const headers = { authorization: 'Bearer s3cret' };
  await call(app.url, 'POST', '/registry/vms', { body: aVm({ id: 'awaited', role: 'golden' }), headers });
  const first = await connection.response();
  assert.match(first.text, /"id":"awaited"/);
  assert.equal((await connection.response('POST')).status, 100);
  connection.send(BODY);
  assert.equal((await connection.response('POST')).status, 201);
});
