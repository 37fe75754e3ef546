/** Promise 4: no input causes a 5xx, a hang or a crash. Each test sends raw bytes and expects a clear 4xx. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { createBudgets } from '../../../daemon/limits/budgets.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { call } from '../../helpers/http.ts';
import { exchange, type RawAnswer, readAnswers } from '../../helpers/raw.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

/** A request with a Host and `Connection: close`. */
function request(line: string, headers: readonly string[] = [], body: string | Buffer = ''): Buffer {
  const head = [`${line} HTTP/1.1`, 'Host: registry', 'Connection: close', ...headers];
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), Buffer.from(body)]);
}

function post(body: string | Buffer, headers: readonly string[] = []): Buffer {
  return request('POST /registry/vms', [`Content-Length: ${Buffer.byteLength(body)}`, ...headers], body);
}

function check(answer: RawAnswer | undefined, status: number, saying: RegExp, name: string): void {
  assert.equal(answer?.status, status, name);
  assert.match(answer.headers['content-type'] ?? '', /^application\/json/, name);
  const { error } = JSON.parse(answer.text) as { error: string };
  assert.match(error, saying, name);
}

/** Asserts that the app still serves, has logged no warning or error, and holds the given number of VMs. */
async function isWell({ url, store, logged }: ServedApp, vms = 0): Promise<void> {
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  assert.deepEqual(
    logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
    [],
  );
  assert.equal(store.vms.size, vms);
}

type Case = [name: string, bytes: string | Buffer, status: number, saying: RegExp];

function refuses(title: string, cases: readonly Case[], { end = false } = {}): void {
  test(title, async (t) => {
    const app = await serveApp(t);
    for (const [name, bytes, status, saying] of cases) {
      const answers = await exchange(app.at, bytes, { end });
      assert.equal(answers.length, 1, name);
      check(answers[0], status, saying, name);
    }
    await isWell(app);
  });
}

refuses('a body that is not a JSON object is 400, and the error says what it is', [
  ['nothing', request('POST /registry/vms'), 400, /^body is required/],
  ['nothing, with a type', request('POST /registry/vms', ['Content-Type: application/json']), 400, /^body is required/],
  ['an array', post('[]'), 400, /^body must be a JSON object, not an array/],
  ['a string', post('"vm"'), 400, /^body must be a JSON object, not a string/],
  ['null', post('null'), 400, /^body must be a JSON object, not null/],
  ['a number', post('12'), 400, /^body must be a JSON object, not a number/],
  ['true', post('true'), 400, /^body must be a JSON object, not a boolean/],
  ['half of one', post('{"id":'), 400, /^body is not valid JSON/],
  ['more than one', post('{} {}'), 400, /^body is not valid JSON/],
  ['a form', post('id=a&name=b', ['Content-Type: application/x-www-form-urlencoded']), 400, /^body is not valid JSON/],
  ['white space', post('  \n'), 400, /^body is not valid JSON/],
  [
    'gzip',
    post(Buffer.from('1f8b0800', 'hex'), ['Content-Encoding: gzip']),
    415,
    /^content-encoding gzip is not supported/,
  ],
  ['invalid UTF-8', post(Buffer.from('7b226964223a22ff227d', 'hex')), 400, /^body is not valid UTF-8/],
  ['an overlong slash', post(Buffer.from('22c0af22', 'hex')), 400, /^body is not valid UTF-8/],
  ['UTF-16', post(Buffer.from('{}', 'utf16le')), 400, /^body is not valid JSON/],
]);

refuses('a body that is too long is 413, and one that is nested too deeply is 400', [
  ['1 MiB and a byte', post(`"${'a'.repeat(1_048_575)}"`), 413, /^body is too large \(limit 1048576 bytes\)/],
  ['a length beyond all', request('POST /registry/vms', ['Content-Length: 99999999999999']), 413, /^body is too large/],
  [
    'chunks without an announced length',
    request('POST /registry/vms', ['Transfer-Encoding: chunked'], `${`10000\r\n${'a'.repeat(65_536)}\r\n`.repeat(20)}`),
    413,
    /^body is too large/,
  ],
  ['arrays in arrays', post('['.repeat(129) + ']'.repeat(129)), 400, /nested more than 128 levels deep/],
  ['half a million arrays', post('['.repeat(500_000) + ']'.repeat(500_000)), 400, /nested more than 128 levels deep/],
  ['objects in objects', post(`${'{"a":'.repeat(200)}1${'}'.repeat(200)}`), 400, /nested more than 128 levels deep/],
]);

refuses('a key that would reach an object prototype is 400 at any depth', [
  ['at the top', post('{"__proto__":{"role":"infra"}}'), 400, /"__proto__"/],
  ['escaped', post('{"\\u005f_proto__":{}}'), 400, /"__proto__"/],
  ['in metadata', post('{"metadata":{"a":[{"__proto__":1}]}}'), 400, /"__proto__"/],
  ['through the constructor', post('{"metadata":{"constructor":{"prototype":{"a":1}}}}'), 400, /"constructor"/],
]);

refuses('a number beyond the range of JavaScript is 400 at any depth', [
  ['in metadata', post('{"metadata":{"a":[1e999]}}'), 400, /^body has a number beyond 1.79/],
  ['at the top', post('1e999'), 400, /^body has a number beyond/],
  ['below zero', post('{"services":[{"name":"a","port":-1e999}]}'), 400, /^body has a number beyond/],
]);

test('a change whose response cannot be encoded as requested is refused before anything changes', async (t) => {
  const app = await serveApp(t);
  for (const include of ['include=everything', 'include=liveness&include=liveness']) {
    for (const [method, path] of [
      ['POST', '/registry/vms'],
      ['PUT', '/registry/vms/vm-1'],
    ] as const) {
      const { status, body } = await call(app.url, method, `${path}?${include}`, { body: aVm() });
      assert.deepEqual([status, (body as { field: string }).field], [400, 'include'], `${method} ${include}`);
    }
  }
  await isWell(app);
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  assert.equal((await call(app.url, 'PATCH', '/registry/vms/vm-1?include=x', { body: { name: 'b' } })).status, 400);
  assert.equal((await call(app.url, 'DELETE', '/registry/vms/vm-1?include=x')).status, 400);
  assert.equal(app.registry.get('vm-1').vm.name, 'one');
  await isWell(app, 1);
});

test('a heartbeat that reports on a service with a very long name is 400', async (t) => {
  const app = await serveApp(t);
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  const beat = (length: number) =>
    call(app.url, 'POST', '/registry/vms/vm-1/heartbeat', { body: { health: { ['a'.repeat(length)]: 'passing' } } });
  assert.equal((await beat(1024)).status, 200);
  const { status, body } = await beat(1025);
  assert.equal(status, 400);
  assert.match((body as { error: string }).error, /^health\.a{60} is too long: \d+ characters \(limit 1024\)/);
});

refuses('a body of a media type other than JSON is 415', [
  ['XML', post('<vm/>', ['Content-Type: text/xml']), 415, /text\/xml is not supported: send application\/json/],
  ['a multipart form', post('--x', ['Content-Type: multipart/form-data; boundary=x']), 415, /multipart\/form-data/],
  ['bytes', post('{}', ['Content-Type: application/octet-stream']), 415, /octet-stream is not supported/],
  ['something like JSON', post('{}', ['Content-Type: application/jsonp']), 415, /jsonp is not supported/],
  ['what begins like JSON', post('{}', ['Content-Type: application/x+jsonfoo']), 415, /x\+jsonfoo is not supported/],
  ['no media type at all', post('{}', ['Content-Type: ;;;']), 415, /content-type ;;; is not supported/],
  [
    'XML in chunks',
    request(
      'PATCH /registry/vms/a',
      ['Content-Type: text/xml', 'Transfer-Encoding: chunked'],
      '4\r\n<a/>\r\n0\r\n\r\n',
    ),
    415,
    /text\/xml/,
  ],
]);

refuses('a malformed URL or query is 400, and a well-formed URL without a route is 404', [
  ['half a percent', request('GET /registry/vms/%zz'), 400, /percent-encoding/],
  ['a percent at the end', request('DELETE /registry/vms/a%'), 400, /percent-encoding/],
  ['bytes that are no UTF-8', request('GET /registry/vms/%ff%fe'), 400, /percent-encoding/],
  ['in the query', request('GET /registry/vms?role=%zz'), 400, /query has invalid percent-encoding/],
  ['no UTF-8 in the query', request('GET /registry/vms?role=%c3%28'), 400, /query has invalid percent-encoding/],
  ['a filter given twice', request('GET /registry/vms?role=infra&role=worker'), 400, /^role is given 2 times/],
  ['a status given twice', request('GET /registry/vms?status=&status='), 400, /^status is given 2 times/],
  ['a space', request('GET /registry/vms/a b'), 400, /not well-formed HTTP/],
  ['a NUL', request('GET /registry/vms/a\0b'), 400, /not well-formed HTTP/],
  ['an escaped NUL', request('GET /registry/vms/%00'), 404, /VM not found/],
  ['an id of 12 KiB', request(`GET /registry/vms/${'a'.repeat(12_288)}`), 404, /VM not found/],
  ['steps up', request('GET /registry/vms/../../etc/passwd'), 404, /no such route/],
  ['two slashes', request('GET //registry/vms'), 404, /no such route/],
  ['a body for nowhere', request('POST /nowhere', ['Content-Length: 1'], '{'), 404, /no such route/],
  ['the server as a whole', request('OPTIONS *'), 404, /no such route/],
  ['an authority', request('CONNECT example.com:443'), 404, /no such route/],
]);

test('an unknown method is 405 with the known methods, before the body is read', async (t) => {
  const app = await serveApp(t);
  for (const method of ['PUT', 'PROPFIND', 'TRACE', 'OPTIONS', 'DELETE', 'BREW', 'get', 'M-SEARCH', 'CONNECT']) {
    const bytes = request(`${method} /registry/vms`, ['Content-Type: text/xml', 'Content-Length: 1'], '{');
    const [answer] = await exchange(app.at, bytes);
    check(answer, 405, new RegExp(`^${method} is not allowed on /registry/vms`), method);
    assert.match(answer?.headers.allow ?? '', /\bPOST\b.*\bGET\b|\bGET\b.*\bPOST\b/, method);
  }
  for (const more of ['?role=infra', '#x', '#x?y', '?x#y']) {
    const [answer] = await exchange(app.at, request(`PUT /registry/vms${more}`));
    check(answer, 405, /^PUT is not allowed on \/registry\/vms$/, more);
  }
  await isWell(app);
});

refuses('a request that is not well-formed HTTP is 400', [
  ['both Content-Length and Transfer-Encoding', post('{}', ['Transfer-Encoding: chunked']), 400, /well-formed/],
  ['two lengths', post('{}', ['Content-Length: 3']), 400, /well-formed/],
  ['a length that is no number', request('POST /registry/vms', ['Content-Length: ten'], '{}'), 400, /well-formed/],
  ['a negative length', request('POST /registry/vms', ['Content-Length: -2'], '{}'), 400, /well-formed/],
  ['a broken chunk', request('POST /registry/vms', ['Transfer-Encoding: chunked'], 'zz\r\n{}\r\n'), 400, /well-formed/],
  ['a coding that we lack', request('POST /registry/vms', ['Transfer-Encoding: gzip'], '{}'), 400, /well-formed/],
  ['no Host', 'GET /health HTTP/1.1\r\nConnection: close\r\n\r\n', 400, /^host is required/],
  ['a space before a colon', request('GET /health', ['X-A : b']), 400, /well-formed/],
  ['a folded header', request('GET /health', ['X-A: b', ' c']), 400, /well-formed/],
  ['no HTTP at all', Buffer.from('160301020001000001fc0303', 'hex'), 400, /well-formed/],
  ['HTTP/2 without asking', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400, /well-formed/],
  ['a future version', 'GET /health HTTP/7.1\r\nHost: a\r\n\r\n', 400, /well-formed/],
]);

refuses(
  'a request that ends before it is complete is 400',
  [
    ['in the first line', 'POST /regis', 400, /well-formed/],
    ['in the headers', 'GET /health HTTP/1.1\r\nHost: a\r\n', 400, /well-formed/],
    ['in the body', request('POST /registry/vms', ['Content-Length: 50'], '{"id":'), 400, /well-formed/],
    ['in a chunk', request('POST /registry/vms', ['Transfer-Encoding: chunked'], '50\r\n{"id"'), 400, /well-formed/],
  ],
  { end: true },
);

refuses('a URL and headers of more than 16 KiB are 431, however many bytes follow', [
  ['one long header', request('GET /health', [`X-A: ${'a'.repeat(20_000)}`]), 431, /limit 16 KiB/],
  ['many short ones', request('GET /health', Array(8000).fill('X-A: b')), 431, /limit 16 KiB/],
  ['a URL of 64 KiB', request(`GET /registry/vms/${'a'.repeat(65_536)}`), 431, /limit 16 KiB/],
  ['a URL of 8 MiB', request(`GET /registry/vms/${'a'.repeat(8_388_608)}`), 431, /limit 16 KiB/],
]);

test('a refused connection is closed although its client stays and keeps sending', async (t) => {
  const { at } = await serveApp(t);
  const socket = connect({ ...at, allowHalfOpen: true });
  t.after(() => socket.destroy());
  socket.write('NONSENSE\r\n\r\n');
  const chatter = setInterval(() => socket.write('and more'), 20);
  const [answer, ...more] = await readAnswers(socket);
  clearInterval(chatter);
  check(answer, 400, /well-formed/, 'nonsense');
  assert.equal(more.length, 0);
});

test('no header is overlooked behind many others', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  const send = async (request: string, count: number, headers: string, body = '') => {
    const many = 'a:b\r\n'.repeat(count);
    const bytes = `${request} HTTP/1.1\r\nHost: a\r\n${many}${headers}Connection: close\r\n\r\n${body}`;
    return (await exchange(app.at, bytes))[0];
  };
  const statusOf = async (request: string, headers: string, body?: string) =>
    (await send(request, 190, headers, body))?.status;
  for (const count of [200, 1000, 2500])
    check(await send('DELETE /registry/vms/vm-1', count, ''), 431, / and 200 headers\)$/, `${count}`);
  assert.equal(await statusOf('DELETE /registry/vms/vm-1', 'If-Match: "99"\r\n'), 412);
  assert.equal(await statusOf('GET /registry/vms', 'Origin: https://evil.example\r\n'), 403);
  assert.equal(await statusOf('POST /registry/vms', 'Content-Type: text/xml\r\nContent-Length: 2\r\n', '{}'), 415);
});

test('contradictory preconditions, encoded bodies and duplicate hosts are refused and change nothing', async (t) => {
  const app = await serveApp(t);
  const put = (...headers: string[]) => {
    const body = JSON.stringify(aVm({ id: 'vm-1' }));
    const lines = [...headers, 'Connection: close', `Content-Length: ${body.length}`].join('\r\n');
    return exchange(app.at, `PUT /registry/vms/vm-1 HTTP/1.1\r\n${lines}\r\n\r\n${body}`);
  };
  for (const [status, field, ...headers] of [
    [412, 'if-none-match', 'Host: a', 'If-Match: "77"', 'If-None-Match: *'],
    [415, 'content-encoding', 'Host: a', 'Content-Encoding: gzip'],
    [400, 'host', 'Host: a', 'Host: b'],
  ] as const) {
    const [answer] = await put(...headers);
    assert.deepEqual([answer?.status, (JSON.parse(answer!.text) as { field: string }).field], [status, field]);
  }
  assert.equal(app.registry.has('vm-1'), false);
  assert.equal((await put('Host: a', 'Content-Encoding: identity'))[0]?.status, 201);
});

test('a complete request gets its response before malformed bytes behind it are refused', async (t) => {
  const app = await serveApp(t);
  const body = JSON.stringify(aVm());
  const bytes = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}NONSENSE\r\n\r\n`;
  const [first, second, ...more] = await exchange(app.at, bytes);
  assert.equal(first?.status, 201);
  check(second, 400, /well-formed/, 'nonsense');
  assert.equal(more.length, 0);
  await isWell(app, 1);
});

for (const [what, bytes, status] of [
  ['CONNECT', 'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n', 404],
  ['an unknown method', 'BREW /health HTTP/1.1\r\nHost: a\r\n\r\n', 405],
] as const) {
  test(`${what} on a connection does not overtake the change before it`, async (t) => {
    const app = await serveApp(t);
    const body = JSON.stringify(aVm());
    const change = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const [first, second, ...more] = await exchange(app.at, change + bytes);
    assert.equal(first?.status, 201);
    check(second, status, /CONNECT|BREW/, what);
    assert.equal(more.length, 0);
    await isWell(app, 1);
  });
}

test('an error of the HTTP parser names the field that is wrong', async (t) => {
  const app = await serveApp(t);
  const cases: readonly [field: string, saying: RegExp, line: string, headers?: readonly string[], body?: string][] = [
    ['transfer-encoding', /with Content-Length$/, 'POST /', ['Content-Length: 1', 'Transfer-Encoding: chunked']],
    ['content-length', /Duplicate/, 'POST /', ['Content-Length: 1', 'Content-Length: 1']],
    ['content-length', /Invalid character/, 'POST /', ['Content-Length: -1']],
    ['headers', /Invalid header value char/, 'GET /', ['X-Odd: a\0b']],
    ['method', /Invalid method/, 'BREW'],
    ['body', /chunk size/, 'POST /registry/vms', ['Transfer-Encoding: chunked'], 'zz\r\n'],
  ];
  for (const [field, saying, line, headers, body] of cases) {
    const [answer] = await exchange(app.at, request(line, headers, body));
    check(answer, 400, saying, line);
    assert.equal((JSON.parse(answer!.text) as { field: string }).field, field);
  }
});

test('100 Continue is sent only if the body will be read', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const ask = async (line: string, ...headers: string[]) =>
    (await exchange(app.at, request(line, ['Expect: 100-continue', ...headers]), { end: true })).map((a) => a.status);
  const known = 'Authorization: Bearer s3cret';
  assert.deepEqual(await ask('POST /registry/vms', 'Content-Length: 5'), [401]);
  assert.deepEqual(await ask('POST /registry/nothing', known, 'Content-Length: 5'), [404]);
  assert.deepEqual(await ask('POST /registry/vms', known, 'Content-Length: 99999999'), [413]);
  const body = JSON.stringify(aVm());
  const twice = ['Expect: 100-continue, 100-continue', known, `Content-Length: ${body.length}`];
  const answers = await exchange(app.at, request('POST /registry/vms', twice, body));
  assert.deepEqual(
    answers.map(({ status }) => status),
    [100, 201],
  );
});

test('pipelined requests are answered in order', async (t) => {
  const app = await serveApp(t);
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  const answers = await exchange(app.at, [
    'GET /registry/vms/vm-1 HTTP/1.1\r\nHost: a\r\n\r\nPATCH /registry/vms/vm-1 HTTP/1.1\r\nHost: a\r\nConte',
    'nt-Length: 18\r\n\r\n{"name":"renamed"}GET /registry/vms/nobody HTTP/1.1\r\nHost: a\r\n\r\n',
    request('GET /health'),
  ]);
  assert.deepEqual(
    answers.map(({ status }) => status),
    [200, 200, 404, 200],
  );
  assert.match(answers[1]!.text, /"name":"renamed"/);
  assert.match(answers[3]!.text, /"status":"ok"/);
});

test('HTTP/1.0, absolute URLs, unknown expectations and upgrades are answered', async (t) => {
  const app = await serveApp(t);
  const asks: Record<string, string | Buffer> = {
    'HTTP/1.0': 'GET /health HTTP/1.0\r\n\r\n',
    'an absolute URL': request('GET http://elsewhere:1/health?x=1'),
    'an upgrade': request('GET /health', ['Upgrade: websocket']),
    'an unknown expectation': request('GET /health', ['Expect: miracles']),
    'a body nobody asked for': request('GET /health', ['Content-Length: 3'], '{{{'),
  };
  for (const [name, bytes] of Object.entries(asks)) {
    const [answer] = await exchange(app.at, bytes);
    assert.equal(answer?.status, 200, name);
    assert.match(answer.text, /"status":"ok"/, name);
  }
  const [proceed, created] = await exchange(app.at, post(JSON.stringify(aVm()), ['Expect: 100-continue']));
  assert.deepEqual([proceed?.status, created?.status], [100, 201]);
  const [headed] = await exchange(app.at, request('HEAD /health'));
  assert.equal(headed?.status, 200);
  await isWell(app, 1);
});

test('an incomplete request is refused after the responses to the requests before it', async (t) => {
  const app = await serveApp(t);
  const half = 'POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{';
  const held = 'GET /registry/discover/worker?wait=50s HTTP/1.1\r\nHost: a\r\n\r\n';
  const answers = exchange(app.at, held + half, { end: true });
  await until('the first to be held', () => app.registry.events.subscriberCount > 0);
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  const [first, second, ...more] = await answers;
  assert.equal(first?.status, 200);
  assert.match(first.text, /"id":"vm-1"/);
  check(second, 400, /well-formed/, 'the half one');
  assert.equal(more.length, 0);
});

test('a body that may have no end is answered, and not read to its end', async (t) => {
  const app = await serveApp(t);
  const piece = Buffer.alloc(65_536, 'a');
  const chunk = Buffer.concat([Buffer.from('10000\r\n'), piece, Buffer.from('\r\n')]);
  const endless: [string, string, Buffer, number][] = [
    ['POST /registry/vms', 'Content-Length: 9999999999', piece, 413],
    ['POST /registry/vms', 'Transfer-Encoding: chunked', chunk, 413],
    ['POST /nowhere', 'Content-Length: 9999999999', piece, 404],
    ['PUT /registry/vms', 'Transfer-Encoding: chunked', chunk, 405],
    ['POST /registry/vms', 'Content-Type: text/xml\r\nContent-Length: 9999999999', piece, 415],
    ['GET /health', 'Transfer-Encoding: chunked', chunk, 200],
    [
      'POST /registry/vms',
      'Content-Length: 9999999999\r\nAuthorization: x\r\nOrigin: http://elsewhere.example',
      piece,
      403,
    ],
  ];
  for (const [line, header, more, status] of endless) {
    const socket = connect(app.at);
    let sent = 0;
    const send = () => {
      while (!socket.destroyed && socket.write(more)) sent += more.length;
    };
    socket.on('drain', send);
    socket.write(`${line} HTTP/1.1\r\nHost: a\r\n${header}\r\n\r\n`);
    send();
    const [answer] = await readAnswers(socket);
    assert.equal(answer?.status, status, line);
    assert.equal(answer.headers.connection, 'close', line);
    // Some megabytes may be in transit; the rest is not read.
    assert.ok(sent < 100_000_000, `${line}: ${sent} bytes were taken`);
  }
  await isWell(app);
});

test('a client that is still sending its body receives the response', async (t) => {
  const { url } = await serveApp(t);
  for (const [path, status] of [
    ['/registry/vms', 413],
    ['/nowhere', 404],
  ] as const) {
    const answer = await call(url, 'POST', path, { body: `"${'x'.repeat(4_000_000)}"` });
    assert.equal(answer.status, status);
  }
});

refuses('chunk extensions and trailers are limited, too', [
  [
    'chunk extensions without end',
    request('POST /registry/vms', ['Transfer-Encoding: chunked'], `2;${'a=b;'.repeat(60_000)}`),
    413,
    /^the chunk extensions of the body are too large \(limit 16 KiB\)/,
  ],
  [
    'trailers without end',
    request('POST /registry/vms', ['Transfer-Encoding: chunked'], `2\r\n{}\r\n0\r\n${'X-A: b\r\n'.repeat(60_000)}`),
    431,
    /limit 16 KiB/,
  ],
]);

test('a client that does not read its response is disconnected, and one that waits for a response is not', async (t) => {
  const app = await serveApp(t, { limits: { requestTimeout: 300 } });
  for (let n = 0; n < 12; n++)
    await call(app.url, 'POST', '/registry/vms', {
      body: aVm({ id: `vm-${n}`, metadata: { pad: 'x'.repeat(1_000_000) } }),
    });
  const waits = exchange(app.at, request('GET /registry/discover/golden?wait=2s'));
  for (const path of ['/registry/vms', '/registry/events?since=start']) {
    const accepted = once(app.server, 'connection') as Promise<[Socket]>;
    const socket = connect(app.at);
    t.after(() => socket.destroy());
    socket.pause();
    socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`);
    const [served] = await accepted;
    await once(served, 'close');
  }
  assert.equal((await waits)[0]?.status, 200);
});

test('large bodies in progress share one budget, and small bodies are read regardless', async (t) => {
  // A body above 64 KiB counts as large, and 32 bodies of the largest size fit into the budget.
  const maxBody = 65_537;
  const app = await serveApp(t, { limits: { maxBody }, budgets: createBudgets({ bodies: 32 * maxBody }) });
  const begun = (bytes: string) => {
    const socket = connect(app.at);
    t.after(() => socket.destroy());
    socket.write(`POST /registry/vms HTTP/1.1\r\nHost: a\r\n${bytes}`);
    return socket;
  };
  const half = Array.from({ length: 32 }, (_, n) =>
    begun(n % 2 === 0 ? `Content-Length: ${maxBody}\r\n\r\n{` : 'Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n'),
  );
  const large = JSON.stringify(aVm({ metadata: { pad: 'x'.repeat(maxBody) } })).slice(0, maxBody);
  const refused = await until('one more to be refused', async () => {
    const [answer] = await exchange(app.at, post(large));
    return answer?.status === 429 ? answer : undefined;
  });
  check(refused, 429, /^the bodies buffer is full \(limit /, 'one more');
  assert.equal(refused.headers['retry-after'], '1');
  assert.equal((await call(app.url, 'POST', '/registry/vms', { body: aVm() })).status, 201);
  for (const socket of half) socket.destroy();
  await until('the budget to be free', async () => (await exchange(app.at, post(large)))[0]?.status === 400);
  await isWell(app, 1);
});

test('an open stream does not occupy the budget of large bodies, whatever body its request announces', async (t) => {
  const maxBody = 65_537;
  const app = await serveApp(t, { limits: { maxBody }, budgets: createBudgets({ bodies: 32 * maxBody }) });
  const streams = Array.from({ length: 33 }, async () => {
    const socket = connect(app.at);
    t.after(() => socket.destroy());
    socket.write('GET /registry/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n');
    const [head] = (await once(socket, 'data')) as [Buffer];
    return head.subarray(9, 12).toString();
  });
  assert.deepEqual(new Set(await Promise.all(streams)), new Set(['200']));
  const large = JSON.stringify(aVm({ metadata: { pad: 'x'.repeat(65_537) } })).slice(0, 65_537);
  const [answer] = await exchange(app.at, post(large));
  check(answer, 400, /not valid JSON/, 'a large write');
});
