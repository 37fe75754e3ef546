/** Every request is logged exactly once, however it ends. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { VregError } from '../../../src/protocol/errors.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { askRaw, Connection } from '../../helpers/connection.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { call } from '../../helpers/http.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const TOKEN = 'Authorization: Bearer s3cret';
const LENGTH = 'Content-Length: 50';

interface Line {
  audit?: boolean;
  msg: string;
  requestId?: string;
  by?: string;
  method?: string;
  status?: number;
  code?: string;
}

function request(line: string, id: string, ...headers: readonly string[]): string {
  return [`${line} HTTP/1.1`, 'Host: a', TOKEN, `X-Request-Id: ${id}`, ...headers, '', ''].join('\r\n');
}

const withBody = (line: string, id: string, body: string) => request(line, id, `Content-Length: ${body.length}`) + body;
const register = (id: string, vm = id) => withBody('POST /registry/vms', id, JSON.stringify(aVm({ id: vm })));

/** The lines of requests: reads are logged at debug level, changes and refusals at info. */
const requestsOf = ({ logged }: ServedApp) =>
  logged.map((line) => JSON.parse(line) as Line).filter(({ audit, msg }) => audit === true || msg === 'request');

/** Waits for the line of a last request, so that a second line of an earlier one would be there, too. */
async function lines(app: ServedApp): Promise<string[]> {
  await call(app.url, 'DELETE', '/registry/vms/nobody', {
    headers: { authorization: 'Bearer s3cret', 'x-request-id': 'last' },
  });
  await until('the last line', () => requestsOf(app).some(({ requestId }) => requestId === 'last'));
  return requestsOf(app)
    .filter(({ requestId }) => requestId !== 'last')
    .map(({ requestId, msg, status }) => `${requestId} ${msg} ${status}`);
}

function startApp(t: TestContext, options: Parameters<typeof serveApp>[1] = {}): Promise<ServedApp> {
  return serveApp(t, { token: 's3cret', logLevel: 'debug', ...options });
}

test('a request that is answered is logged once: reads, changes, refusals, HEAD and preflight', async (t) => {
  const app = await startApp(t, { corsOrigins: ['https://dash.example'] });
  const connection = Connection.open(t, app.at);
  const asked: readonly [string, string, string][] = [
    ['GET', request('GET /health', 'a'), 'a request 200'],
    ['POST', register('b'), 'b change 201'],
    ['POST', register('c', 'b'), 'c refused 409'],
    ['GET', request('GET /registry/vms', 'd'), 'd request 200'],
    ['HEAD', request('HEAD /registry/vms', 'e'), 'e request 200'],
    ['GET', request('GET /registry/vms/nobody', 'f'), 'f refused 404'],
    ['POST', request('POST /registry/vms/b/heartbeat', 'g'), 'g request 200'],
    [
      'HEAD',
      request('OPTIONS /registry/vms', 'h', 'Origin: https://dash.example', 'Access-Control-Request-Method: GET'),
      'h request 204',
    ],
    ['PUT', request('PUT /registry/vms', 'i'), 'i refused 405'],
    ['GET', request('GET /nowhere', 'j'), 'j refused 404'],
    ['GET', request('GET /registry/vms/%zz', 'k'), 'k refused 400'],
    ['GET', request('GET /health', 'l').replace('s3cret', 'wrong'), 'l request 200'],
    ['GET', request('GET /registry/vms', 'm').replace('s3cret', 'wrong'), 'm refused 401'],
    ['DELETE', request('DELETE /registry/vms/b', 'n'), 'n change 200'],
    ['POST', withBody('POST /registry/vms', 'o', '{'), 'o refused 400'],
  ];
  for (const [method, bytes] of asked) {
    connection.send(bytes);
    await connection.response(method);
  }
  assert.deepEqual((await lines(app)).sort(), asked.map(([, , line]) => line).sort());
});

test('a request that is refused before its body arrives is logged once, whether the body comes or not', async (t) => {
  const app = await startApp(t, { limits: { requestTimeout: 200 } });
  const body = '{"name":"a"}'.padEnd(50);
  for (const [id, bytes, after] of [
    ['comes', request('POST /nowhere', 'comes', LENGTH), (c: Connection) => void c.send(body).socket.end()],
    ['stays', request('POST /nowhere', 'stays', LENGTH), () => {}],
    ['ends', request('POST /nowhere', 'ends', LENGTH), (c: Connection) => void c.send('{').socket.end()],
    ['resets', request('POST /nowhere', 'resets', LENGTH), (c: Connection) => c.reset()],
    [
      'breaks',
      request('POST /nowhere', 'breaks', 'Transfer-Encoding: chunked'),
      (c: Connection) => void c.send('zz\r\n'),
    ],
    ['large', request('POST /registry/vms', 'large', 'Content-Length: 99999999'), (c: Connection) => void c.send(body)],
  ] as const) {
    const connection = Connection.open(t, app.at).send(bytes);
    const { status } = await connection.response('POST');
    assert.equal(status, id === 'large' ? 413 : 404);
    after(connection);
    await connection.closed;
  }
  assert.deepEqual((await lines(app)).sort(), [
    'breaks refused 404',
    'comes refused 404',
    'ends refused 404',
    'large refused 413',
    'resets refused 404',
    'stays refused 404',
  ]);
});

test('a request whose client leaves while the body arrives is logged at most once', async (t) => {
  const app = await startApp(t);
  const states: Record<string, string> = {
    length: `${request('POST /registry/vms', 'length', LENGTH)}{`,
    chunk: `${request('PUT /registry/vms/a', 'chunk', 'Transfer-Encoding: chunked')}5\r\n{`,
    expect: request('POST /registry/vms', 'expect', LENGTH, 'Expect: 100-continue'),
    large: `${request('POST /registry/vms', 'large', 'Content-Length: 900000')}${'x'.repeat(200_000)}`,
  };
  for (const [id, bytes] of Object.entries(states)) {
    for (const leave of ['reset', 'end'] as const) {
      const connection = Connection.open(t, app.at).send(bytes.replace(`Id: ${id}`, `Id: ${id}-${leave}`));
      if (id === 'expect') await connection.response('POST');
      // The server has the head by the time that it answers on another connection.
      await call(app.url, 'GET', '/health', { headers: { 'x-request-id': 'between' } });
      if (leave === 'reset') connection.reset();
      else connection.socket.end();
      await connection.closed;
    }
  }
  const seen = (await lines(app)).filter((line) => !line.startsWith('between'));
  const ids = seen.map((line) => line.split(' ')[0]);
  assert.equal(new Set(ids).size, ids.length, seen.join('\n'));
  assert.ok(
    seen.every((line) => /refused (400|408)$/.test(line)),
    seen.join('\n'),
  );
  assert.equal(app.store.vms.size, 0);
});

test('a change whose client leaves before it is durable is logged once with its outcome', async (t) => {
  const store = new GatedStore();
  const app = await startApp(t, { store });
  for (const [id, finish, line] of [
    ['made', () => store.release(), 'made change 201'],
    ['full', async () => store.fail(new VregError('STORE_FULL', 'the disk is full')), 'full refused 507'],
  ] as const) {
    const accepted = once(app.server, 'connection') as Promise<[Socket]>;
    const connection = Connection.open(t, app.at).send(register(id));
    const [served] = await accepted;
    await until('the change to wait for the disk', () => store.waiting === 1);
    connection.reset();
    await until('the connection to be closed', () => served.closed);
    await finish();
    await until('its line', () => requestsOf(app).some(({ requestId }) => requestId === id));
    assert.ok((await lines(app)).includes(line));
  }
  assert.equal((await lines(app)).length, 2);
});

test('an event stream, a long poll and a long list are logged once, when they end', async (t) => {
  const app = await startApp(t);
  const metadata = { pad: 'x'.repeat(100_000) };
  for (let n = 0; n < 20; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  const subscribers = (count: number) =>
    until(`${count} subscribers`, () => app.registry.events.subscriberCount === count || undefined);
  const stream = Connection.open(t, app.at).send(request('GET /registry/events', 'stream'));
  const poll = Connection.open(t, app.at).send(request('GET /registry/discover/golden?wait=50s', 'poll'));
  await subscribers(2);
  assert.deepEqual(requestsOf(app), []);
  stream.reset();
  await subscribers(1);
  poll.reset();
  await subscribers(0);
  const list = Connection.open(t, app.at).send(request('GET /registry/vms', 'list'));
  await list.response();
  const refused = Connection.open(t, app.at).send(request('GET /registry/events?heartbeats=x', 'refused'));
  await refused.response();
  const [anonymous] = await askRaw(
    t,
    app.at,
    request('GET /registry/events', 'anonymous', 'Connection: close').replace(TOKEN, 'X: y'),
  );
  assert.equal(anonymous?.status, 401);
  const ended = await until('all lines', async () => {
    const found = await lines(app);
    return found.length >= 5 ? found : undefined;
  });
  assert.deepEqual(ended.map((line) => line.replace(/^poll .*/, 'poll')).sort(), [
    'anonymous refused 401',
    'list request 200',
    'poll',
    'refused refused 400',
    'stream request 200',
  ]);
});

test('a request that the HTTP parser rejects is logged once, and so is the request before it', async (t) => {
  const app = await startApp(t);
  for (const [bytes, status] of [
    ['NONSENSE\r\n\r\n', 400],
    ['GET /health HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n', 400],
    [`GET /health HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
    ['BREW /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n', 405],
    ['CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n', 404],
    ['POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}', 400],
    [`${'\0'.repeat(1000)}`, 400],
  ] as const) {
    app.logged.length = 0;
    const [first, second, ...more] = await askRaw(t, app.at, request('GET /registry/vms', 'first') + bytes);
    assert.deepEqual([first?.status, second?.status, more.length], [200, status, 0], bytes.slice(0, 50));
    const expected = ['first request 200', `${second?.headers['x-request-id']} refused ${status}`];
    assert.deepEqual((await lines(app)).sort(), expected.sort(), bytes.slice(0, 50));
  }
});

test('requests that wait behind another one are logged once when they are answered, and not at all if the client leaves first', async (t) => {
  const app = await startApp(t);
  const held = (id: string) => request('GET /registry/discover/golden?wait=50s', id);
  const stays = Connection.open(t, app.at).send(held('a') + request('GET /registry/vms', 'b') + register('c'));
  const leaves = Connection.open(t, app.at).send(held('x') + register('y') + register('z'));
  await until('both to wait', () => app.registry.events.subscriberCount === 2);
  leaves.reset();
  await until('one to be left', () => app.registry.events.subscriberCount === 1);
  await app.registry.register(aVm({ id: 'awaited', role: 'golden' }));
  await stays.responses(['GET', 'GET', 'POST']);
  const seen = (await lines(app)).filter((line) => !line.startsWith('x'));
  assert.deepEqual(seen, ['a request 200', 'b request 200', 'c change 201']);
  assert.deepEqual([app.registry.has('y'), app.registry.has('z')], [false, false]);
});
