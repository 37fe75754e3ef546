/**
 * HTTP/1.1 pipelining over real connections, plain and TLS: order, splits, clients that do not read or that leave. See also
 * server/request-queue.test.ts.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { Tls } from '../../../daemon/http/server/tls.ts';
import { createBudgets } from '../../../daemon/limits/budgets.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { makeAuthority } from '../../helpers/certificates.ts';
import { Connection } from '../../helpers/connection.ts';
import { call } from '../../helpers/http.ts';
import { open as openTls } from '../../helpers/https.ts';
import { seeded } from '../../helpers/random.ts';
import { unless } from '../../helpers/tools.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const OPENSSL = unless('openssl');

const request = (line: string, ...headers: readonly string[]) =>
  [`${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');
const numbered = (n: number, line = 'GET /health') => request(line, `X-Request-Id: r-${n}`);
const all = (count: number, make: (n: number) => string) => Array.from({ length: count }, (_, n) => make(n)).join('');
const HELD = request('GET /registry/discover/golden?wait=50s');

const waits = ({ registry }: ServedApp, count = 1) =>
  until(`${count} long polls`, () => registry.events.subscriberCount === count);
const isIdle = ({ registry }: ServedApp) => until('no long poll', () => registry.events.subscriberCount === 0);
const endLongPolls = ({ registry }: ServedApp) => registry.register(aVm({ id: 'awaited', role: 'golden' }));

/** Opens a connection and returns both of its ends. */
async function open(t: TestContext, app: ServedApp): Promise<{ connection: Connection; served: Socket }> {
  const accepted = once(app.server, 'connection') as Promise<[Socket]>;
  const connection = Connection.open(t, app.at);
  const [served] = await accepted;
  return { connection, served };
}

/** Whether nothing was read for a while: a pause causes no event. */
async function hasStoppedReading(socket: Socket): Promise<boolean> {
  const { bytesRead } = socket;
  await setTimeout(150);
  return bytesRead > 0 && socket.bytesRead === bytesRead;
}

test('3,600 requests in one write are all answered, in order', async (t) => {
  const app = await serveApp(t);
  const connection = Connection.open(t, app.at).send(
    all(3600, (n) => numbered(n, n % 3 === 0 ? 'GET /nowhere' : 'GET /health')),
  );
  for (let n = 0; n < 3600; n++) {
    const { status, headers } = await connection.response();
    assert.deepEqual([status, headers['x-request-id']], [n % 3 === 0 ? 404 : 200, `r-${n}`]);
  }
});

test('a chunk of 64 KiB full of the shortest requests is answered completely', async (t) => {
  const app = await serveApp(t);
  const shortest = 'GET /x HTTP/1.1\r\nHost:\r\n\r\n';
  const count = Math.floor(65_536 / shortest.length);
  const connection = Connection.open(t, app.at).send(shortest.repeat(count));
  for (let n = 0; n < count; n++) assert.equal((await connection.response()).status, 404, `${n}`);
  connection.send(request('GET /health', 'Connection: close'));
  assert.deepEqual(
    (await connection.remaining()).map(({ status }) => status),
    [200],
  );
});

test('3,600 requests of 18 bytes without a Host are refused one by one, or end with the first', async (t) => {
  const app = await serveApp(t);
  const connection = Connection.open(t, app.at).send('GET / HTTP/1.1\r\n\r\n'.repeat(3600));
  for (let n = 0; n < 3600; n++) {
    const { status, headers } = await connection.response();
    assert.ok(status === 400 || status === 404);
    if (headers.connection === 'close') return;
  }
});

test('thousands of requests behind a long poll are neither refused nor handled before their turn', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  let handled = 0;
  const { heartbeat } = app.registry;
  app.registry.heartbeat = (...args) => {
    handled++;
    return heartbeat.apply(app.registry, args);
  };
  const { connection, served } = await open(t, app);
  connection.send(HELD + all(2000, (n) => numbered(n, 'POST /registry/vms/vm-1/heartbeat')));
  await waits(app);
  await until('the first of them to arrive', () => served.bytesRead > 10_000);
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
  assert.equal(handled, 0);
  await endLongPolls(app);
  assert.match((await connection.response()).text, /"id":"awaited"/);
  for (let n = 0; n < 2000; n++)
    assert.deepEqual([(await connection.response('POST')).headers['x-request-id']], [`r-${n}`]);
  assert.equal(handled, 2000);
});

test('pipelined changes take effect in their order, each before the next request is handled', async (t) => {
  const app = await serveApp(t);
  const connection = Connection.open(t, app.at);
  const put = (name: string) => {
    const body = JSON.stringify(aVm({ id: 'vm-1', name }));
    return request('PUT /registry/vms/vm-1', `Content-Length: ${body.length}`) + body;
  };
  const rounds = Array.from({ length: 60 }, (_, n) => `name-${n}`);
  connection.send(
    rounds
      .map(
        (name) =>
          `${put(name)}${request('GET /registry/vms/vm-1')}${request('DELETE /registry/vms/vm-1')}${request('HEAD /registry/vms/vm-1')}`,
      )
      .join(''),
  );
  for (const name of rounds) {
    const [made, read, removed, headed] = await connection.responses(['PUT', 'GET', 'DELETE', 'HEAD']);
    assert.deepEqual([made?.status, read?.status, removed?.status, headed?.status], [201, 200, 200, 404]);
    assert.match(read!.text, new RegExp(`"name":"${name}"`));
  }
});

test('pipelined requests are answered the same wherever the bytes are split', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  const body = '{"name":"a"}';
  const lines: readonly [string, string, number][] = [
    ['GET', request('GET /health'), 200],
    ['PATCH', request('PATCH /registry/vms/vm-1', `Content-Length: ${body.length}`) + body, 200],
    ['GET', request('GET /nowhere'), 404],
    ['HEAD', request('HEAD /registry/vms'), 200],
    ['POST', `${request('POST /registry/vms', 'Content-Length: 2')}{}`, 400],
    ['GET', request('GET /registry/vms/vm-1'), 200],
  ];
  const bytes = lines.map(([, text]) => text).join('');
  const random = seeded('splits');
  const plans = [
    [...bytes].map((_, at) => at + 1),
    ...Array.from({ length: 10 }, () =>
      Array.from({ length: 12 }, () => random.below(bytes.length)).sort((a, b) => a - b),
    ),
  ];
  for (const cuts of plans) {
    const connection = Connection.open(t, app.at);
    connection.socket.setNoDelay(true);
    let from = 0;
    for (const to of [...cuts, bytes.length]) {
      if (to > from) connection.send(bytes.slice(from, to));
      from = Math.max(from, to);
      await new Promise(setImmediate);
    }
    const responses = await connection.responses(lines.map(([method]) => method));
    assert.deepEqual(
      responses.map(({ status }) => status),
      lines.map(([, , status]) => status),
      cuts.slice(0, 12).join(),
    );
    connection.socket.destroy();
  }
});

test('a client that sends without reading is not refused, but the daemon stops reading from it', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'large', metadata: { pad: 'x'.repeat(200_000) } }));
  let handled = 0;
  const { get } = app.registry;
  app.registry.get = (id) => {
    handled++;
    return get.call(app.registry, id);
  };
  const { connection, served } = await open(t, app);
  connection.socket.pause();
  const count = 20_000;
  connection.send(all(count, (n) => numbered(n, 'GET /registry/vms/large')));
  await until('the response buffer to be full', () => served.writableLength > 0);
  await until('the server to stop reading', () => hasStoppedReading(served));
  const sent = count * numbered(10_000, 'GET /registry/vms/large').length;
  assert.ok(served.bytesRead < 400_000, `${served.bytesRead} of ${sent} bytes were read`);
  assert.ok(served.writableLength < 4_000_000, `${served.writableLength} bytes are buffered`);
  assert.ok(handled < 200, `${handled} requests were handled`);
  assert.equal((await call(app.url, 'GET', '/health')).status, 200, 'others are served');
  // When the client reads, it gets its responses in order.
  connection.socket.resume();
  for (let n = 0; n < 300; n++) {
    const { status, headers } = await connection.response();
    assert.deepEqual([status, headers['x-request-id']], [200, `r-${n}`]);
  }
  connection.socket.destroy();
  await until('the connection to be closed', () => served.closed);
  const after = handled;
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
  assert.ok(handled - after <= 1, 'nothing is handled for a client that has left');
});

test(
  'over TLS, the daemon stops reading from a client that does not read, and later sends every response',
  OPENSSL,
  async (t) => {
    const authority = makeAuthority(t);
    const { cert, key } = authority.issue('server');
    const pem = (path: string) => ({ path, text: readFileSync(path, 'utf8') });
    const ignore = () => {};
    const tls = new Tls({ cert: pem(cert), key: pem(key) }, { debug: ignore, info: ignore, warn: ignore });
    const app = await serveApp(t, { tls });
    await app.registry.register(aVm({ id: 'large', metadata: { pad: 'x'.repeat(8_000) } }));
    const accepted = once(app.server, 'secureConnection') as Promise<[Socket]>;
    const connection = new Connection(await openTls(app.url, authority));
    t.after(() => connection.socket.destroy());
    const [served] = await accepted;
    connection.socket.pause();
    const count = 5000;
    connection.send(all(count, (n) => numbered(n, 'GET /registry/vms/large')));
    await until('the response buffer to be full', () => served.writableLength > 0);
    await until('the server to stop reading', () => hasStoppedReading(served));
    assert.ok(served.bytesRead < 300_000, `${served.bytesRead} bytes were read`);
    connection.socket.resume();
    for (let n = 0; n < count; n++) {
      const { status, headers } = await connection.response();
      assert.deepEqual([status, headers['x-request-id']], [200, `r-${n}`]);
    }
  },
);

test('the requests queued on a connection stay bounded while its first request is pending', async (t) => {
  const app = await serveApp(t);
  const { connection, served } = await open(t, app);
  connection.send(HELD);
  await waits(app);
  // 10 MB of requests.
  const batch = all(1000, (n) => numbered(n));
  for (let n = 0; n < 180; n++) connection.send(batch);
  await until('the server to stop reading', () => hasStoppedReading(served));
  assert.ok(served.bytesRead < 400_000, `${served.bytesRead} bytes were read ahead`);
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
});

for (const leave of ['reset', 'destroy', 'end'] as const) {
  test(`a paused connection notices that its client has left by ${leave}`, async (t) => {
    const app = await serveApp(t);
    const { connection, served } = await open(t, app);
    connection.send(HELD + all(1000, (n) => numbered(n)));
    await waits(app);
    await until('the requests to arrive', () => served.bytesRead > 40_000);
    if (leave === 'reset') connection.reset();
    else connection.socket[leave]();
    if (leave === 'end') {
      // A client that only ends its half may still read: it gets every response or the end of the connection.
      await endLongPolls(app);
      assert.ok((await connection.remaining()).length <= 1001);
    }
    await isIdle(app);
    await until('the connection to be closed', () => served.closed);
  });
}

test('the memory of requests that wait is reserved, and released when they are handled or their client leaves', async (t) => {
  const budgets = createBudgets({ pipelined: 2_000_000 });
  const app = await serveApp(t, { budgets });
  const connections: { connection: Connection; served: Socket }[] = [];
  const used = () => budgets.pipelined.used;
  assert.equal(used(), 0);
  for (let n = 0; n < 3; n++) {
    const opened = await open(t, app);
    opened.connection.send(HELD + all(90, (each) => numbered(each)));
    connections.push(opened);
    await waits(app, n + 1);
  }
  await until('memory to be reserved for each request', () => used() > 3 * 90 * 1000);
  const before = used();
  connections[0]!.connection.reset();
  await until(
    'the memory of the first connection to be released',
    () => used() < before * 0.7 && used() > before * 0.6,
  );
  await endLongPolls(app);
  for (const { connection } of connections.slice(1)) {
    const responses = await connection.responses(Array<string>(91).fill('GET'));
    assert.ok(responses.every(({ status }) => status === 200));
  }
  assert.equal(used(), 0);
});

test('a queued request that exceeds the budget of all connections is 429 after the preceding responses, and its memory is released', async (t) => {
  const budgets = createBudgets({ pipelined: 100_000 });
  const app = await serveApp(t, { budgets });
  const { connection } = await open(t, app);
  connection.send(HELD + all(60, (n) => numbered(n)));
  await waits(app);
  await until('the budget to be used', () => budgets.pipelined.used > 80_000);
  await endLongPolls(app);
  const responses = await connection.remaining();
  assert.equal(responses[0]?.status, 200);
  const last = responses.pop();
  assert.deepEqual([last?.status, last?.headers.connection], [429, 'close']);
  assert.ok(Number(last?.headers['retry-after']) > 0);
  assert.ok(responses.length > 10 && responses.every(({ status }) => status === 200), `${responses.length}`);
  assert.equal(budgets.pipelined.used, 0);
  // A connection without waiting requests needs nothing of the budget.
  const next = Connection.open(t, app.at).send(all(10, (n) => numbered(n)));
  assert.ok((await next.responses(Array<string>(10).fill('GET'))).every(({ status }) => status === 200));
});

test('a malformed request behind hundreds of others is refused after all of their responses', async (t) => {
  const app = await serveApp(t);
  const responses = await Connection.open(t, app.at)
    .send(`${all(400, numbered)}NONSENSE\r\n\r\n${all(10, numbered)}`)
    .remaining();
  assert.equal(responses.length, 401);
  assert.deepEqual([responses[399]?.status, responses[400]?.status], [200, 400]);
});

test('a pipelined request with a large body waits for its turn with its body unread', async (t) => {
  const app = await serveApp(t);
  const { connection, served } = await open(t, app);
  const body = JSON.stringify(aVm({ id: 'late', metadata: { pad: 'x'.repeat(900_000) } }));
  connection.send(`${HELD}${request('POST /registry/vms', `Content-Length: ${body.length}`)}${body}${numbered(1)}`);
  await waits(app);
  await until('its head to arrive', () => served.bytesRead > 1000);
  assert.equal(app.registry.has('late'), false);
  assert.ok(served.bytesRead < 600_000, `${served.bytesRead} bytes were read ahead`);
  await endLongPolls(app);
  const [first, second, third] = await connection.responses(['GET', 'POST', 'GET']);
  assert.deepEqual([first?.status, second?.status, third?.headers['x-request-id']], [200, 201, 'r-1']);
});

test('Connection: close in the middle ends the connection after its response', async (t) => {
  const app = await serveApp(t);
  const bytes = all(150, numbered) + request('GET /nowhere', 'Connection: close') + all(150, numbered);
  const responses = await Connection.open(t, app.at).send(bytes).remaining();
  assert.deepEqual([responses.length, responses.at(-1)?.status], [151, 404]);
});
