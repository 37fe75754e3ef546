/** Limits of the head of a request, and heads that a proxy and the daemon could read differently. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { askRaw, Connection, type RawResponse } from '../../helpers/connection.ts';
import { aVm } from '../../helpers/vm.ts';

const request = (line: string, ...headers: readonly string[]) => [`${line} HTTP/1.1`, ...headers, '', ''].join('\r\n');

function fieldOf({ text }: RawResponse): string | undefined {
  return (JSON.parse(text) as { field?: string }).field;
}

/** Exactly one response, which is an error, and nothing was changed by the request or by what is hidden in it. */
async function isRefused(t: TestContext, app: ServedApp, bytes: string | Buffer, status: number, field?: string) {
  const name = JSON.stringify(bytes.toString('latin1').slice(0, 200));
  const { revision } = app.store;
  const responses = await askRaw(t, app.at, bytes);
  assert.deepEqual(
    responses.map((response) => response.status),
    [status],
    name,
  );
  if (field !== undefined) assert.equal(fieldOf(responses[0]!), field, name);
  assert.equal(app.store.revision, revision, name);
}

test('200 headers are accepted, and 201 are 431', async (t) => {
  const app = await serveApp(t);
  const withHeaders = (count: number) =>
    request('GET /health', 'Host: a', 'Connection: close', ...Array.from({ length: count - 2 }, (_, n) => `X-${n}: y`));
  for (const count of [2, 100, 199, 200])
    assert.deepEqual(
      (await askRaw(t, app.at, withHeaders(count))).map(({ status }) => status),
      [200],
      `${count}`,
    );
  for (const count of [201, 202, 500, 1500]) await isRefused(t, app, withHeaders(count), 431, 'headers');
});

test('the URL and the headers may have 16 KiB together, and more is 431 wherever it is', async (t) => {
  const app = await serveApp(t);
  const close = 'Connection: close';
  const around = (make: (pad: string) => string) => {
    const frame = make('').length;
    return { below: make('x'.repeat(16_384 - frame - 200)), above: make('x'.repeat(16_384 - frame + 200)) };
  };
  for (const { below, above } of [
    around((pad) => request('GET /health', 'Host: a', close, `X-Pad: ${pad}`)),
    around((pad) => request(`GET /health?${pad}`, 'Host: a', close)),
    around((pad) => request('GET /health', 'Host: a', close, `X-${pad}: y`)),
    around((pad) => request('GET /health', `Host: ${pad}`, close)),
  ]) {
    assert.deepEqual(
      (await askRaw(t, app.at, below)).map(({ status }) => status),
      [200],
      below.slice(0, 60),
    );
    await isRefused(t, app, above, 431, 'headers');
  }
  // A second request on a connection has the same limit as the first.
  const { above } = around((pad) => request('GET /health', 'Host: a', `X-Pad: ${pad}`));
  const [first, second, ...more] = await askRaw(t, app.at, request('GET /health', 'Host: a') + above);
  assert.deepEqual([first?.status, second?.status, more.length], [200, 431, 0]);
});

test('connections beyond maxConnections are closed immediately, and one more is served when another is closed', async (t) => {
  const app = await serveApp(t);
  app.server.maxConnections = 3;
  const open = async () => {
    const connection = Connection.open(t, app.at).send(request('GET /health', 'Host: a'));
    return {
      connection,
      status: await connection.response().then(
        (response) => response.status,
        () => undefined,
      ),
    };
  };
  const kept = [await open(), await open(), await open()];
  assert.deepEqual(
    kept.map(({ status }) => status),
    [200, 200, 200],
  );
  for (let n = 0; n < 5; n++) assert.equal((await open()).status, undefined);
  kept[0]!.connection.socket.destroy();
  while ((await open()).status === undefined);
  for (const { connection } of kept.slice(1)) {
    connection.send(request('GET /health', 'Host: a'));
    assert.equal((await connection.response()).status, 200);
  }
});

test('a request has exactly one Host, or none in HTTP/1.0', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const token = 'Authorization: Bearer s3cret';
  const close = 'Connection: close';
  for (const hosts of [
    [],
    ['Host: a', 'Host: b'],
    ['Host: a', 'Host: a'],
    ['Host: a', 'host: a'],
    ['HOST: a', 'X: y', 'Host:'],
    ['Host: a', 'Host: b', 'Host: c'],
  ])
    await isRefused(t, app, request('GET /registry/vms', token, close, ...hosts), 400, 'host');
  for (const bytes of [
    `GET /health HTTP/1.0\r\n\r\n`,
    request('GET /registry/vms', token, close, 'Host: a'),
    request('GET /registry/vms', token, close, 'HOST: registry.example:3000'),
    request('GET /registry/vms', token, close, 'Host:a'),
    request('GET /registry/vms', token, close, 'Host:  \t a \t '),
    request('GET /registry/vms', token, close, 'Host: [::1]:3000'),
    request('GET http://b/registry/vms', token, close, 'Host: a'),
  ])
    assert.deepEqual(
      (await askRaw(t, app.at, bytes)).map(({ status }) => status),
      [200],
      bytes,
    );
});

test('a transfer coding other than chunked alone, or beside a content-length, is 400', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'victim' }));
  const hidden = request('DELETE /registry/vms/victim', 'Host: a');
  const chunks = `0\r\n\r\n${hidden}`;
  for (const headers of [
    ['Content-Length: 5', 'Transfer-Encoding: chunked'],
    ['Transfer-Encoding: chunked', 'Content-Length: 5'],
    ['Transfer-Encoding: chunked', 'Content-Length: 0'],
    ['Transfer-Encoding: gzip'],
    ['Transfer-Encoding: identity'],
    ['Transfer-Encoding: gzip, chunked, gzip'],
    ['Transfer-Encoding: chunked, identity'],
    ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'],
    ['Transfer-Encoding: xchunked'],
    ['Transfer-Encoding: chunkedx'],
    ['Transfer-Encoding: "chunked"'],
    ['Transfer-Encoding: chunked;q=1'],
    ['Transfer-Encoding: \u000bchunked'],
    ['Transfer-Encoding : chunked'],
    [' Transfer-Encoding: chunked'],
    ['X: y\u000bTransfer-Encoding: chunked'],
    ['Transfer-Encoding:', ' chunked'],
    ['Content-Length : 5'],
    ['Content-Length: 5', ' 5'],
  ]) {
    const { revision } = app.store;
    const responses = await askRaw(
      t,
      app.at,
      Buffer.from(request('POST /registry/vms', 'Host: a', ...headers) + chunks, 'latin1'),
    );
    assert.deepEqual(
      responses.map(({ status }) => status),
      [400],
      headers.join(' | '),
    );
    assert.equal(app.store.revision, revision, headers.join(' | '));
  }
  assert.equal(app.registry.has('victim'), true);
});

test('chunked is read in any case, and a chunked body ends where its last chunk ends', async (t) => {
  const app = await serveApp(t);
  for (const [n, coding] of ['chunked', 'Chunked', 'CHUNKED', ' chunked ', '\tchunked'].entries()) {
    const body = JSON.stringify(aVm({ id: `vm-${n}` }));
    const head = request('POST /registry/vms', 'Host: a', `Transfer-Encoding:${coding}`);
    const next = request('GET /health', 'Host: a', 'Connection: close');
    const responses = await askRaw(t, app.at, `${head}${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n${next}`);
    assert.equal(responses[0]?.status, 201, coding);
    // The connection closes after a body of unknown length, or the next request is answered.
    if (responses.length === 1) assert.equal(responses[0]?.headers.connection, 'close', coding);
    else assert.deepEqual([responses[1]?.status, responses.length], [200, 2], coding);
  }
});

test('folded, malformed and ambiguous header lines are 400', async (t) => {
  const app = await serveApp(t);
  for (const line of [
    'X-A: b\r\n c',
    'X-A: b\r\n\tc',
    'X-A:\r\n b',
    ' X-A: b',
    'X-A : b',
    'X-A\t: b',
    'X-A',
    ': b',
    'X A: b',
    'X-A: b\0c',
    'X-\0A: b',
    'X-A: b\rX-B: c',
    'X-A: b\u007f',
    'X-(A): b',
    'X-Ä: b',
  ])
    await isRefused(t, app, Buffer.from(request('GET /health', 'Host: a', line), 'latin1'), 400);
});

test('line ends other than CRLF never split one request into two', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'victim' }));
  const hidden = 'DELETE /registry/vms/victim HTTP/1.1';
  for (const bytes of [
    `GET /health HTTP/1.1\rHost: a\r\r${hidden}\r\nHost: a\r\n\r\n`,
    `GET /health HTTP/1.1\r\nHost: a\r\nX: y\r${hidden}\r\n\r\n`,
    `GET /health\r\n${hidden}\r\nHost: a\r\n\r\n`,
    `GET /health HTTP/1.1\u0085Host: a\r\n\r\n${hidden}`,
    `GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\n${hidden}\r\nHost: a\r\n\r\n`,
  ]) {
    await askRaw(t, app.at, Buffer.from(`${bytes}NONSENSE\r\n\r\n`, 'latin1'));
    assert.equal(app.registry.has('victim'), true, JSON.stringify(bytes));
  }
});

test('a version other than 1.0 and 1.1 is 400', async (t) => {
  const app = await serveApp(t);
  for (const version of [
    'HTTP/1.2',

    'HTTP/3.0',
    'HTTP/1',
    'HTTP/11',
    'http/1.1',
    'HTTP 1.1',

    'XTTP/1.1',
  ])
    await isRefused(t, app, `GET /health ${version}\r\nHost: a\r\nConnection: close\r\n\r\n`, 400);
});
