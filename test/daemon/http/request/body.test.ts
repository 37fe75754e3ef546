/** How the body of a request is framed, limited, decoded and parsed. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { askRaw, Connection, type RawResponse } from '../../../helpers/connection.ts';
import { call } from '../../../helpers/http.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const MAX_BODY = 4096;
/** Bytes of the largest body that the app reads unless a test sets another limit. */
const LARGE = 1_048_576;

function head(line: string, ...headers: readonly string[]): string {
  return [`${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');
}

function post(body: string | Buffer, ...headers: readonly string[]): Buffer {
  const lines = ['Connection: close', `Content-Length: ${Buffer.byteLength(body)}`, ...headers];
  return Buffer.concat([Buffer.from(head('POST /registry/vms', ...lines)), Buffer.from(body)]);
}

function chunked(parts: readonly (string | Buffer)[], { trailers = '', extension = '' } = {}): Buffer {
  const chunks = parts.flatMap((part) => {
    const bytes = Buffer.from(part);
    return [Buffer.from(`${bytes.length.toString(16)}${extension}\r\n`), bytes, Buffer.from('\r\n')];
  });
  return Buffer.concat([...chunks, Buffer.from(`0\r\n${trailers}\r\n`)]);
}

function postChunked(parts: readonly (string | Buffer)[], more = {}): Buffer {
  const lines = ['Connection: close', 'Transfer-Encoding: chunked'];
  return Buffer.concat([Buffer.from(head('POST /registry/vms', ...lines)), chunked(parts, more)]);
}

function fieldOf({ text }: RawResponse): string | undefined {
  return (JSON.parse(text) as { field?: string }).field;
}

/** A registration as JSON, padded with spaces to a number of bytes. */
const padded = (id: string, length: number) => JSON.stringify(aVm({ id })).padEnd(length);

async function isRefused(t: TestContext, app: ServedApp, bytes: string | Buffer, status: number, field: string) {
  const name = bytes.toString('latin1').slice(0, 300);
  const responses = await askRaw(t, app.at, bytes);
  assert.equal(responses.length, 1, name);
  const [response] = responses as [RawResponse];
  assert.equal(response.status, status, `${name}\n${response.text}`);
  assert.equal(fieldOf(response), field, `${name}\n${response.text}`);
  assert.equal(response.headers.connection, 'close', name);
  return response;
}

test('a content-length that is not a plain number, or is given twice, is 400', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  const { length } = body;
  for (const value of [
    '-1',
    `-${length}`,
    `+${length}`,
    `0x${length.toString(16)}`,
    `${length}.0`,
    `${length},${length}`,
    `${length}, ${length}`,
    `${length} ${length}`,
    `${length}a`,
    '1e2',
    'NaN',
    '"5"',
    '18446744073709551616',
    '99999999999999999999999999',
  ])
    await isRefused(t, app, head('POST /registry/vms', `Content-Length: ${value}`) + body, 400, 'content-length');
  for (const [first, second] of [
    [length, length],
    [length, length + 1],
    [0, length],
    [length, 0],
  ]) {
    const lines = [`Content-Length: ${first}`, `Content-Length: ${second}`];
    await isRefused(t, app, head('POST /registry/vms', ...lines) + body, 400, 'content-length');
  }
  assert.equal(app.store.vms.size, 0);
});

test('a content-length longer than the body is 400 when the client ends, and nothing is registered', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  const connection = Connection.open(t, app.at);
  connection.send(head('POST /registry/vms', `Content-Length: ${body.length + 1}`) + body).socket.end();
  const [response, ...more] = await connection.remaining();
  assert.deepEqual([response?.status, more.length], [400, 0]);
  assert.equal(app.store.vms.size, 0);
});

test('a content-length shorter than the body ends the body there, and the rest is the next request', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  const short = head('POST /registry/vms', `Content-Length: ${body.length}`);
  const [first, second, ...more] = await askRaw(t, app.at, `${short}${body}}}`);
  assert.deepEqual([first?.status, second?.status, more.length], [201, 400, 0]);
  const cut = head('POST /registry/vms', `Content-Length: ${body.length - 1}`);
  const [half, rest, ...others] = await askRaw(t, app.at, cut + body);
  assert.deepEqual([half?.status, fieldOf(half!)], [400, 'body']);
  assert.deepEqual([rest?.status ?? 400, others.length], [400, 0]);
  assert.equal(app.store.vms.size, 1);
});

test('without a content-length and a transfer coding there is no body, and the following bytes are the next request', async (t) => {
  const app = await serveApp(t);
  const next = head('GET /health', 'Connection: close');
  for (const lines of [[], ['Content-Length: 0'], ['Content-Type: application/json']]) {
    const responses = await askRaw(t, app.at, head('POST /registry/vms', ...lines) + next);
    assert.deepEqual(
      responses.map(({ status }) => status),
      [400, 200],
    );
    assert.equal(fieldOf(responses[0]!), 'body');
  }
  const [refused, malformed] = await askRaw(t, app.at, head('POST /registry/vms') + JSON.stringify(aVm()));
  assert.deepEqual([refused?.status, malformed?.status], [400, 400]);
});

test('a body of exactly the limit is read, and one byte more is 413, by its length and in chunks', async (t) => {
  const app = await serveApp(t, { limits: { maxBody: MAX_BODY } });
  const statusOf = async (bytes: Buffer) => (await askRaw(t, app.at, bytes))[0]?.status;
  assert.equal(await statusOf(post(padded('a', MAX_BODY))), 201);
  assert.equal(await statusOf(postChunked([padded('b', MAX_BODY)])), 201);
  const bytes = padded('c', MAX_BODY);
  assert.equal(await statusOf(postChunked([bytes.slice(0, 1000), bytes.slice(1000, 4000), bytes.slice(4000)])), 201);
  assert.equal(await statusOf(postChunked([...padded('d', 200)])), 201);
  await isRefused(t, app, post(padded('e', MAX_BODY + 1)), 413, 'body');
  await isRefused(t, app, postChunked([padded('f', MAX_BODY + 1)]), 413, 'body');
  await isRefused(t, app, postChunked([padded('g', MAX_BODY), ' ']), 413, 'body');
  await isRefused(t, app, postChunked([...padded('h', MAX_BODY + 1)]), 413, 'body');
  assert.equal(app.store.vms.size, 4);
});

test('chunk extensions, trailers, upper-case sizes and leading zeros do not change a chunked body', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm({ id: 'd' }));
  const size = body.length.toString(16);
  const headed = head('POST /registry/vms', 'Connection: close', 'Transfer-Encoding: chunked');
  for (const [id, bytes] of [
    ['a', postChunked([JSON.stringify(aVm({ id: 'a' }))], { extension: ';name=value;other="quoted"' })],
    ['b', postChunked([JSON.stringify(aVm({ id: 'b' }))], { trailers: 'X-Checksum: 1\r\nX-Other: 2\r\n' })],
    ['c', postChunked([...JSON.stringify(aVm({ id: 'c' }))])],
    ['d', `${headed}0000${size.toUpperCase()}\r\n${body}\r\n0000\r\n\r\n`],
  ] as const) {
    const [response] = await askRaw(t, app.at, bytes);
    assert.deepEqual([response?.status, app.registry.has(id)], [201, true], id);
  }
});

test('a malformed chunk is 400, and nothing of the body is used', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  const size = body.length.toString(16);
  const headed = head('POST /registry/vms', 'Transfer-Encoding: chunked');
  for (const bytes of [
    'zz\r\n',
    '-1\r\n',
    '0x10\r\n',
    `${size}\r\n${body}X\r\n0\r\n\r\n`,
    `${size}\r\n${body}0\r\n\r\n`,
    `\r\n${size}\r\n${body}\r\n0\r\n\r\n`,
    `${size} ${size}\r\n${body}\r\n0\r\n\r\n`,
    `fffffffffffffffff\r\n${body}`,
  ]) {
    const [response, ...more] = await askRaw(t, app.at, headed + bytes);
    assert.deepEqual([response?.status, more.length], [400, 0], JSON.stringify(bytes));
  }
  assert.equal(app.store.vms.size, 0);
});

test('a body that is announced as too large is 413 before any of it is sent, and the connection closes', async (t) => {
  const app = await serveApp(t, { limits: { maxBody: MAX_BODY } });
  for (const method of [
    'POST /registry/vms',
    'PUT /registry/vms/a',
    'POST /registry/heartbeats',
    'DELETE /registry/vms/a',
  ])
    await isRefused(t, app, head(method, `Content-Length: ${MAX_BODY + 1}`), 413, 'body');
});

test('a chunked body is 413 as soon as it exceeds the limit, while the client is still sending', async (t) => {
  const app = await serveApp(t, { limits: { maxBody: MAX_BODY } });
  const connection = Connection.open(t, app.at);
  connection.send(head('POST /registry/vms', 'Transfer-Encoding: chunked'));
  const piece = `400\r\n${' '.repeat(1024)}\r\n`;
  connection.send(piece.repeat(5));
  // The body has no end yet, and the client waits for the answer before it sends more.
  const response = await connection.response();
  assert.deepEqual([response.status, fieldOf(response), response.headers.connection], [413, 'body', 'close']);
  connection.send(piece);
  assert.deepEqual(await connection.remaining(), []);
});

/** The status that a request with a body of 1 MiB gets before the body is sent: 100, or 429 while the budget is used up. */
async function probe(t: TestContext, { at }: ServedApp): Promise<number> {
  const lines = [`Content-Length: ${LARGE}`, 'Expect: 100-continue'];
  const connection = Connection.open(t, at).send(head('POST /registry/vms', ...lines));
  const { status } = await connection.response('POST');
  connection.socket.destroy();
  return status;
}

test('uploads that their clients abort free the budget of large bodies', async (t) => {
  const app = await serveApp(t);
  const begun = [
    `${head('POST /registry/vms', `Content-Length: ${LARGE}`)}{`,
    `${head('POST /registry/vms', 'Transfer-Encoding: chunked')}1\r\n{\r\n`,
  ];
  for (const end of [
    (upload: Connection) => upload.reset(),
    (upload: Connection) => upload.socket.destroy(),
    (upload: Connection) => upload.socket.end(),
  ]) {
    const uploads: Connection[] = [];
    await until('the budget to be used up', async () => {
      for (let n = 0; n < 16; n++) uploads.push(Connection.open(t, app.at).send(begun[n % 2]!));
      return (await probe(t, app)) === 429;
    });
    for (const upload of uploads) end(upload);
    await until('the budget to be free', async () => (await probe(t, app)) === 100);
    await Promise.all(uploads.map(({ closed }) => closed));
  }
  assert.equal(app.store.vms.size, 0);
});

test('large bodies that are refused or answered leave the budget of large bodies as it was', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const token = 'Authorization: Bearer s3cret';
  const close = 'Connection: close';
  const announced = `Content-Length: ${LARGE}`;
  // A chunked body may become as large as the limit, whatever its size turns out to be.
  const unknown = ['Transfer-Encoding: chunked', close, token];
  const rounds: readonly (readonly [number, string])[][] = [
    [
      [401, head('POST /registry/vms', close, announced)],
      [404, head('POST /nowhere', close, token, announced)],
      [405, head('PUT /registry/vms', close, token, announced)],
      [415, head('POST /registry/vms', close, token, announced, 'Content-Encoding: br')],
    ],
    [
      [415, head('POST /registry/vms', ...unknown, 'Content-Type: text/xml') + chunked(['{}'])],
      [400, head('POST /registry/vms', ...unknown) + chunked(['{}'])],
      [400, `${head('POST /registry/vms', ...unknown)}zz\r\n`],
    ],
  ];
  for (const requests of rounds) {
    // In total, more than may be in progress at once.
    for (let round = 0; round < 6; round++) {
      const asked = requests.flatMap((request) => Array.from({ length: 10 }, () => request));
      const statuses = asked.map(async ([, bytes]) => (await askRaw(t, app.at, bytes))[0]?.status);
      assert.deepEqual(
        await Promise.all(statuses),
        asked.map(([status]) => status),
      );
    }
  }
  const body = padded('a', 65_537);
  assert.equal((await askRaw(t, app.at, post(body, token)))[0]?.status, 201);
});

for (const [type, isJson] of [
  ['application/json', true],
  ['APPLICATION/JSON', true],
  ['application/json;charset=utf-8', true],
  ['application/json; charset=UTF-8', true],
  ['application/json; profile="a;b"', true],
  ['application/vnd.vers+json', true],
  ['application/merge-patch+json; charset=utf-8', true],
  ['application/x-www-form-urlencoded', true],
  ['text/plain', true],
  ['text/plain;charset=UTF-8', true],
  ['text/xml', false],
  ['text/html', false],
  ['text/plainly', false],
  ['text/json', false],
  ['application/jsonp', false],
  ['application/json5', false],
  ['application/x+jsonfoo', false],
  ['application/xml', false],
  ['application/octet-stream', false],
  ['multipart/form-data; boundary=x', false],
  ['json', false],
  ['*/*', false],
  [';;;', false],
] as const) {
  test(`a body of type ${type} is ${isJson ? 'read as JSON' : '415'}`, async (t) => {
    const app = await serveApp(t);
    const body = JSON.stringify(aVm());
    const [response] = await askRaw(t, app.at, post(body, `Content-Type: ${type}`));
    assert.equal(response?.status, isJson ? 201 : 415, response?.text);
    if (!isJson) assert.equal(fieldOf(response!), 'content-type');
    assert.equal(app.store.vms.size, isJson ? 1 : 0);
  });
}

test('a request without a body may have any content type and any content encoding', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm());
  for (const line of ['Content-Type: text/xml', 'Content-Encoding: gzip', 'Content-Type: ;;;'])
    for (const lines of [[line], [line, 'Content-Length: 0']]) {
      const [beat] = await askRaw(t, app.at, head('POST /registry/vms/vm-1/heartbeat', 'Connection: close', ...lines));
      assert.equal(beat?.status, 200, lines.join());
    }
});

test('a content-encoding other than identity is 415 and named', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  for (const coding of [
    'gzip',
    'GZIP',
    'x-gzip',
    'br',
    'deflate',
    'zstd',
    'compress',
    'gzip, identity',
    'identity, gzip',
    'utf-8',
  ])
    await isRefused(t, app, post(body, `Content-Encoding: ${coding}`), 415, 'content-encoding');
  assert.equal(app.store.vms.size, 0);
  for (const coding of ['identity', 'Identity', '']) {
    const [response] = await askRaw(
      t,
      app.at,
      post(JSON.stringify(aVm({ id: `a${coding}` })), `Content-Encoding: ${coding}`),
    );
    assert.equal(response?.status, 201, coding);
  }
});

test('invalid UTF-8 is 400, and valid UTF-8 arrives unchanged wherever it is split', async (t) => {
  const app = await serveApp(t);
  for (const bytes of ['ff', 'fe', 'c0af', 'c3', 'e282', 'eda080', 'f4908080', 'f0808080', '80'])
    await isRefused(t, app, post(Buffer.from(`7b226964223a22${bytes}227d`, 'hex')), 400, 'body');
  const name = 'ö日本🦊';
  const body = Buffer.from(JSON.stringify(aVm({ name })));
  const each = [...body].map((byte) => Buffer.from([byte]));
  assert.equal((await askRaw(t, app.at, postChunked(each)))[0]?.status, 201);
  assert.equal(app.registry.get('vm-1').vm.name, name);
});

test('a byte order mark before the JSON is ignored, and one anywhere else is not', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  assert.equal((await askRaw(t, app.at, post(`\uFEFF${body}`)))[0]?.status, 201);
  for (const wrong of [`\uFEFF\uFEFF${body}`, `${body}\uFEFF`, `{\uFEFF${body.slice(1)}`, '\uFEFF'])
    await isRefused(t, app, post(wrong), 400, 'body');
  await isRefused(t, app, post(Buffer.from(`\uFEFF${body}`, 'utf16le')), 400, 'body');
});

test('prototype keys, numbers beyond the range and deep nesting are 400', async (t) => {
  const app = await serveApp(t);
  const nested = (depth: number, open = '[', close = ']') => `${open.repeat(depth)}${close.repeat(depth)}`;
  const inMetadata = (json: string) => JSON.stringify(aVm()).replace(/\}$/, `,"metadata":{"a":${json}}}`);
  for (const json of [
    '{"__proto__":1}',
    '{"\\u005f\\u005fproto\\u005f\\u005f":{}}',
    '[[{"b":{"__proto__":null}}]]',
    '{"constructor":{"prototype":{}}}',
    '1e999',
    '-1e999',
    '[1,[2,[1e400]]]',
    `${'9'.repeat(400)}`,
    // The body, its metadata and the field are three levels.
    nested(127),
    nested(5000),
    nested(400_000),
    `${'{"a":'.repeat(129)}1${'}'.repeat(129)}`,
    `${'{"a":'.repeat(150_000)}1${'}'.repeat(150_000)}`,
    `${'[{"a":'.repeat(100_000)}1${'}]'.repeat(100_000)}`,
  ])
    await isRefused(t, app, post(inMetadata(json)), 400, 'body');
  assert.equal(app.store.vms.size, 0);
  assert.equal(Object.hasOwn(Object.prototype, 'role'), false);
  const accepted = ['1e308', '-1e308', '5e-324', '{"constructor":"a"}', '{"prototype":1}', nested(126), '{"proto":{}}'];
  for (const [n, json] of accepted.entries()) {
    const [response] = await askRaw(t, app.at, post(inMetadata(json).replace('vm-1', `vm-${n}`)));
    assert.equal(response?.status, 201, json);
  }
});

test('a heartbeat reads its body if it has a field of an agent, and then refuses one that is not acceptable', async (t) => {
  const app = await serveApp(t, { limits: { maxBody: MAX_BODY } });
  await app.registry.register(aVm());
  const beat = async (body: string, ...lines: readonly string[]) => {
    const length = `Content-Length: ${Buffer.byteLength(body)}`;
    const line = head('POST /registry/vms/vm-1/heartbeat', 'Connection: close', length, ...lines);
    const [response] = await askRaw(t, app.at, line + body);
    return [response?.status, response?.status === 200 ? undefined : fieldOf(response!)];
  };
  const deep = `${'['.repeat(128)}${']'.repeat(128)}`;
  for (const [body, field] of [
    ['{"next":"x"}', 'next'],
    ['{"spend":null}', 'spend'],
    ['{"health":{"web":"sick"}}', 'health.web'],
    [`{"health":{},"more":${deep}}`, 'body'],
    [`{"position":"1-a","more":1e999}`, 'body'],
    [`{"health":{"__proto__":1}}`, 'body'],
  ] as const)
    assert.deepEqual(await beat(body), [400, field], body);
  const ignored = [
    `{"more":${deep}}`,
    '{"health":1}',
    '{"position":1}',
    '{"next":"x"',
    '["next"]',
    '"next"',
    '{"more":1e999}',
  ];
  for (const body of ignored) assert.deepEqual(await beat(body), [200, undefined], body);
  assert.deepEqual(await beat('{"next":"x"}', 'Content-Type: text/xml'), [200, undefined]);
  assert.deepEqual(await beat('{"next":"x"}', 'Content-Encoding: gzip'), [200, undefined]);
  assert.deepEqual(await beat(`{"next":"x"}`.padEnd(MAX_BODY + 1), 'Content-Type: text/xml'), [413, 'body']);
});

test('a client that waits for 100 Continue gets it before its body is ignored, and the connection serves the next request', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm());
  const body = '{"next":';
  const lines = ['Expect: 100-continue', `Content-Length: ${body.length}`, 'Content-Type: text/xml'];
  const connection = Connection.open(t, app.at);
  for (const line of ['POST /registry/vms/vm-1/heartbeat', 'DELETE /registry/vms/vm-1']) {
    connection.send(head(line, ...lines));
    assert.equal((await connection.response()).status, 100, line);
    assert.equal(app.registry.has('vm-1'), true);
    connection.send(body);
    assert.equal((await connection.response()).status, 200, line);
  }
  assert.equal(app.registry.has('vm-1'), false);
});

test('the body of a request that is not read is never taken for the next request', async (t) => {
  const app = await serveApp(t, { token: 's3cret', limits: { maxBody: MAX_BODY } });
  const token = 'Authorization: Bearer s3cret';
  await app.registry.register(aVm({ id: 'victim' }));
  const smuggled = head('DELETE /registry/vms/victim', token);
  const last = head('GET /registry/whoami', token, 'Connection: close');
  for (const [line, status] of [
    ['GET /health', 200],
    ['HEAD /health', 200],
    ['GET /registry/vms/victim', 200],
    ['HEAD /registry/vms', 200],
    ['GET /nowhere', 404],
    ['POST /nowhere', 404],
    ['PUT /registry/vms', 405],
    ['OPTIONS /registry/vms', 405],
    ['TRACE /registry/vms', 405],
    ['POST /registry/vms', 401],
    ['PATCH /registry/vms/victim', 415],
    ['POST /registry/vms/%zz', 400],
  ] as const) {
    const type = status === 415 ? ['Content-Type: text/xml'] : [];
    const lines = status === 401 ? type : [token, ...type];
    for (const [framing, body] of [
      [`Content-Length: ${smuggled.length}`, smuggled],
      ['Transfer-Encoding: chunked', chunked([smuggled]).toString()],
      ['Transfer-Encoding: chunked', chunked([...smuggled]).toString()],
    ] as const) {
      const name = `${line} ${framing}`;
      const connection = Connection.open(t, app.at).send(head(line, ...lines, framing) + body + last);
      const method = line.split(' ')[0]!;
      const first = await connection.response(method);
      assert.equal(first.status, status, name);
      const rest = await connection.remaining();
      // Either the connection closed after the response, or the next response is that of the real next request.
      assert.ok(rest.length <= 1, `${name}: ${rest.map((each) => each.text).join()}`);
      if (rest.length === 1) assert.match(rest[0]!.text, /"name":"VERS_AUTH_TOKEN"/, name);
      else assert.equal(first.headers.connection, 'close', name);
    }
  }
  assert.equal(app.registry.has('victim'), true);
});

test('a body may arrive byte by byte, together with its head, or long after it', async (t) => {
  const app = await serveApp(t);
  const bytes = post(JSON.stringify(aVm({ id: 'a' })));
  const slow = Connection.open(t, app.at);
  slow.socket.setNoDelay(true);
  for (const byte of bytes) {
    slow.send(Buffer.from([byte]));
    await new Promise(setImmediate);
  }
  assert.equal((await slow.response()).status, 201);
  const late = Connection.open(t, app.at);
  const body = JSON.stringify(aVm({ id: 'b' }));
  late.send(head('POST /registry/vms', `Content-Length: ${body.length}`));
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
  late.send(body);
  assert.equal((await late.response()).status, 201);
});
