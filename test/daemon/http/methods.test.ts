/** Unknown routes, unknown methods, preflights, CONNECT and Upgrade: who is told about them, and with which `Allow`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../../helpers/app.ts';
import { askRaw, Connection, type RawResponse } from '../../helpers/connection.ts';

const TOKEN = 'Authorization: Bearer s3cret';
const DASH = 'https://dash.example';
const PREFLIGHT = [`Origin: ${DASH}`, 'Access-Control-Request-Method: PATCH'];

const request = (line: string, ...headers: readonly string[]) =>
  [`${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');

/** The methods of `Allow`, in alphabetical order. */
function methodsIn({ headers: { allow } }: RawResponse): string | undefined {
  return allow?.split(', ').sort().join(' ');
}

test('404 and 405 are sent only to clients that have authenticated', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  for (const [line, status, allow] of [
    ['GET /nowhere', 404, undefined],
    ['POST /registry', 404, undefined],
    ['PUT /registry/vms', 405, 'GET HEAD POST'],
    ['OPTIONS /registry/vms', 405, 'GET HEAD POST'],
    ['DELETE /registry/discover/infra', 405, 'GET HEAD'],
    ['POST /registry/vms/a', 405, 'DELETE GET HEAD PATCH PUT'],
    ['GET /registry/heartbeats', 405, 'POST'],
    ['HEAD /registry/heartbeats', 405, 'POST'],
    ['PROPFIND /registry/tokens', 405, 'DELETE GET HEAD POST'],
    ['M-SEARCH /registry/conflicts', 405, 'DELETE GET HEAD'],
  ] as const) {
    const method = line.split(' ')[0]!;
    const [anonymous] = await askRaw(t, app.at, request(line, 'Connection: close'), method);
    assert.deepEqual([anonymous?.status, anonymous?.headers.allow], [401, undefined], line);
    assert.equal(anonymous?.headers['www-authenticate'], 'Bearer', line);
    const [known] = await askRaw(t, app.at, request(line, 'Connection: close', TOKEN), method);
    assert.deepEqual([known?.status, methodsIn(known!)], [status, allow], line);
  }
});

test('a route that needs no token lists its methods only to authenticated clients', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const [anonymous] = await askRaw(t, app.at, request('POST /health', 'Connection: close'));
  assert.equal(anonymous?.status, 401);
  const [known] = await askRaw(t, app.at, request('POST /health', 'Connection: close', TOKEN));
  assert.deepEqual([known?.status, known?.headers.allow], [405, 'HEAD, GET']);
});

test('a preflight of a named origin is answered before authentication, and no other request is', async (t) => {
  const app = await serveApp(t, { token: 's3cret', corsOrigins: [DASH] });
  const ask = async (line: string, ...headers: readonly string[]) =>
    (await askRaw(t, app.at, request(line, 'Connection: close', ...headers)))[0]!;
  const allowed = await ask('OPTIONS /registry/vms/a', ...PREFLIGHT);
  assert.deepEqual(
    [allowed.status, allowed.headers['access-control-allow-methods'], allowed.headers.vary],
    [204, 'HEAD, GET, PUT, PATCH, DELETE', 'Origin'],
  );
  assert.equal((await ask('OPTIONS /registry/vms/a', ...PREFLIGHT, 'Authorization: Bearer wrong')).status, 204);
  for (const [line, ...headers] of [
    ['OPTIONS /nowhere', ...PREFLIGHT],
    ['OPTIONS *', ...PREFLIGHT],
    ['OPTIONS /registry/vms/%zz', ...PREFLIGHT],
    ['OPTIONS /registry/vms/a', `Origin: ${DASH}`],
    ['OPTIONS /registry/vms/a', 'Access-Control-Request-Method: GET'],
    ['OPTIONS /registry/vms/a', 'Origin: https://evil.example', 'Access-Control-Request-Method: GET'],
    ['OPTIONS /registry/vms/a', `Origin: ${DASH}.evil.example`, 'Access-Control-Request-Method: GET'],
    ['GET /registry/vms/a', ...PREFLIGHT],
    ['PATCH /registry/vms/a', ...PREFLIGHT],
  ] as const)
    assert.equal((await ask(line, ...headers)).status, 401, [line, ...headers].join(' | '));
});

test('methods that are unknown or misspelt are 405 or malformed, and are never taken for a known one', async (t) => {
  const app = await serveApp(t);
  for (const method of [
    'BREW',
    'get',
    'Get',
    'GETT',
    'PUR',
    'HEADS',
    'POSTS',
    'DELETES',
    'X',
    'A-B',
    'QUERY',
    'PURGE',
    'SOURCE',
  ]) {
    const [response, ...more] = await askRaw(t, app.at, request(`${method} /registry/vms`, 'Connection: close'));
    assert.deepEqual([response?.status, more.length], [405, 0], method);
    assert.equal(methodsIn(response!), 'GET HEAD POST', method);
  }
  for (const line of [
    'GE\u0000T /health',
    'GET\t/health',
    ' GET /health',
    '\u00e9 /health',
    'GET',
    '/health',
    '(GET) /health',
    '',
  ]) {
    const bytes = Buffer.from(`${line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`, 'latin1');
    const [response, ...more] = await askRaw(t, app.at, bytes);
    assert.deepEqual([response?.status, more.length], [400, 0], line);
  }
});

test('CONNECT is 404 or 405 and opens no tunnel', async (t) => {
  const app = await serveApp(t);
  for (const [target, status] of [
    ['example.com:443', 404],
    ['/nowhere', 404],
    ['/health', 405],
    ['/registry/vms', 405],
  ] as const) {
    const connection = Connection.open(t, app.at).send(request(`CONNECT ${target}`));
    const response = await connection.response('CONNECT');
    assert.deepEqual([response.status, response.headers.connection], [status, 'close'], target);
    connection.send(request('GET /health'));
    assert.deepEqual(await connection.remaining(), [], target);
  }
});

test('an upgrade is ignored: the request is answered over HTTP/1.1, and so is the next one', async (t) => {
  const app = await serveApp(t);
  for (const upgrade of [
    ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Key: x', 'Sec-WebSocket-Version: 13'],
    ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA'],
    ['Upgrade: websocket'],
  ]) {
    const connection = Connection.open(t, app.at);
    connection.send(request('GET /health', ...upgrade));
    assert.equal((await connection.response()).status, 200, upgrade.join());
    const body = '{}';
    connection.send(request('POST /registry/vms', ...upgrade, `Content-Length: ${body.length}`) + body);
    assert.equal((await connection.response()).status, 400, upgrade.join());
    connection.send(request('GET /nowhere', 'Connection: close'));
    const [last, ...more] = await connection.remaining();
    assert.deepEqual([last?.status, more.length], [404, 0], upgrade.join());
  }
});

test('TRACE does not send the request back', async (t) => {
  const app = await serveApp(t);
  const [response] = await askRaw(t, app.at, request('TRACE /health', 'Connection: close', 'X-Secret: canary'));
  assert.equal(response?.status, 405);
  assert.doesNotMatch(`${response?.text}${JSON.stringify(response?.headers)}`, /canary/);
});
