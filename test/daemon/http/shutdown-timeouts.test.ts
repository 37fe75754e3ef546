/** Time limits and the way down: nothing is waited for without end, and nothing that was accepted is dropped. */
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { pino } from 'pino';
import { buildApp } from '../../../daemon/http/app.ts';
import { listen } from '../../../daemon/http/server/listen.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { MonitoredStore } from '../../../daemon/store/monitored-store.ts';
import type { Change } from '../../../daemon/store/store.ts';
import type { Position } from '../../../src/protocol/position.ts';
import { accessTo, serveApp } from '../../helpers/app.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { Connection } from '../../helpers/connection.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { call } from '../../helpers/http.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { exchange, parseAnswers, readAnswers } from '../../helpers/raw.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const BODY = JSON.stringify(aVm());
const HEAD = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: ${BODY.length}\r\n\r\n`;

/** A store whose commits wait until they are let go; it says when the first one waits. */
class SlowStore extends MemoryStore {
  readonly #events = new EventEmitter();
  readonly #gate = once(this.#events, 'go');
  readonly reached = once(this.#events, 'commit');

  override async commit(change: Change): Promise<Position> {
    this.#events.emit('commit');
    await this.#gate;
    return super.commit(change);
  }

  letGo(): void {
    this.#events.emit('go');
  }
}

async function listening(t: TestContext, store: MemoryStore, { requestTimeout = 60_000 } = {}) {
  const registry = new Registry({ store, clock: new FakeClock(), staleAfter: 1000 }, store.contents());
  const app = buildApp({
    registry,
    store: new MonitoredStore(store),
    authenticator: accessTo(registry, store),
    version: '0.0.0',
    log: pino({ level: 'silent' }),
    limits: { requestTimeout },
  });
  const socket = join(tempDir(t), 'vreg.sock');
  const { port, close } = await listen(app, { tcp: { host: '127.0.0.1', port: 0 }, socket });
  return { tcp: { host: '127.0.0.1', port: port! }, unix: { path: socket }, close };
}

async function opened(socket: Socket, ...bytes: readonly string[]): Promise<Socket> {
  await once(socket, 'connect');
  for (const chunk of bytes) await new Promise((resolve) => socket.write(chunk, resolve));
  return socket;
}

/** Waits until nobody is let in any more. */
function isShut(where: NetConnectOpts): Promise<boolean> {
  return until('the door to be shut', async () => {
    const socket = connect(where);
    try {
      await once(socket, 'connect');
      return false;
    } catch {
      return true;
    } finally {
      socket.destroy();
    }
  });
}

for (const [what, bytes] of [
  ['body', `${HEAD}{"id":`],
  ['chunked body', 'PATCH /registry/vms/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\n'],
  ['header', 'GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: '],
  ['first line', 'GET /hea'],
] as const) {
  test(`a ${what} that never ends is 408 when its time is up`, async (t) => {
    const { at, url, store } = await serveApp(t, { limits: { requestTimeout: 200 } });
    const [answer, ...more] = await exchange(at, bytes);
    assert.equal(answer?.status, 408);
    assert.match((JSON.parse(answer.text) as { error: string }).error, /was not received completely in time/);
    assert.equal(more.length, 0);
    assert.equal((await call(url, 'GET', '/health')).status, 200);
    assert.equal(store.vms.size, 0);
  });
}

test('if the body of a request times out, a response in progress is cut and no error is written into it', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const socket = await opened(connect(at), 'GET /registry/events HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n');
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'close');
  const text = Buffer.concat(chunks).toString();
  assert.match(text, /^HTTP\/1\.1 200 OK\r\n/);
  assert.doesNotMatch(text, /408|error/);
});

test('a request answered before its body arrived gets no second response when the body times out', async (t) => {
  const { at, logged } = await serveApp(t, { token: 's3cret', limits: { requestTimeout: 200 } });
  const answers = await exchange(at, HEAD);
  assert.deepEqual(
    answers.map(({ status }) => status),
    [401],
  );
  assert.equal(logged.filter((line) => line.includes('"audit":true')).length, 1);
});

test('a header that arrives byte by byte does not extend the time limit', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const socket = await opened(connect(at), 'GET /health HTTP/1.1\r\nHost: a\r\n');
  const trickle = setInterval(() => socket.write('X: y\r\n'), 20);
  const [answer] = await readAnswers(socket);
  clearInterval(trickle);
  assert.equal(answer?.status, 408);
});

test('a connection that never sends a byte is closed', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const answers = await readAnswers(connect(at));
  assert.ok(answers.every(({ status }) => status === 408));
});

for (const kind of ['tcp', 'unix'] as const) {
  test(`during shutdown a request body in progress over ${kind} is read and answered, and idle connections are closed`, async (t) => {
    const store = new MemoryStore();
    const served = await listening(t, store);
    const idle = await opened(connect(served[kind]), 'GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(idle, 'data');
    const busy = await opened(connect(served[kind]), HEAD + BODY.slice(0, 10));
    await call(`http://127.0.0.1:${served.tcp.port}`, 'GET', '/health');
    const closed = served.close();
    await once(idle, 'close');
    await isShut(served[kind]);
    busy.write(BODY.slice(10));
    const [answer] = await readAnswers(busy);
    assert.equal(answer?.status, 201);
    await closed;
    assert.equal(store.vms.size, 1);
  });
}

test('shutdown waits for a commit in progress', async (t) => {
  const store = new SlowStore();
  const { tcp, close } = await listening(t, store);
  const answered = readAnswers(await opened(connect(tcp), HEAD + BODY));
  await store.reached;
  let down = false;
  const closed = close().then(() => (down = true));
  await isShut(tcp);
  assert.equal(down, false);
  store.letGo();
  assert.equal((await answered)[0]?.status, 201);
  await closed;
});

test('a keep-alive connection does not delay shutdown after its last response', async (t) => {
  const store = new SlowStore();
  const { tcp, close } = await listening(t, store);
  const agent = new Agent({ keepAlive: true });
  const asked = request({ ...tcp, agent, method: 'POST', path: '/registry/vms' }).end(BODY);
  const answered = once(asked, 'response');
  await store.reached;
  const closed = close();
  store.letGo();
  const [response] = await answered;
  assert.equal(response.statusCode, 201);
  response.resume();
  await closed;
  agent.destroy();
});

test('during shutdown a response to a slow client is sent completely', async (t) => {
  const store = new MemoryStore();
  const served = await listening(t, store);
  const url = `http://127.0.0.1:${served.tcp.port}`;
  // More than the kernel takes for who does not read.
  const metadata = { blob: 'x'.repeat(900_000) };
  for (let i = 0; i < 16; i++) await call(url, 'POST', '/registry/vms', { body: aVm({ id: `vm-${i}`, metadata }) });
  const slow = await opened(connect(served.unix), 'GET /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n');
  const [first] = (await once(slow, 'data')) as [Buffer];
  slow.pause();
  const closed = served.close();
  await isShut(served.unix);
  slow.unshift(first);
  const [answer] = await readAnswers(slow.resume());
  assert.equal(answer?.text.length, Number(answer?.headers['content-length']));
  await closed;
});

test('a body that never ends delays shutdown by at most the request timeout', async (t) => {
  const { tcp, close } = await listening(t, new MemoryStore(), { requestTimeout: 500 });
  const stalled = await opened(connect(tcp), `${HEAD}{`);
  const chunks: Buffer[] = [];
  stalled.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {});
  await call(`http://127.0.0.1:${tcp.port}`, 'GET', '/health');
  await close();
  assert.ok(parseAnswers(Buffer.concat(chunks)).every(({ status }) => status === 408));
});

test('a second request on a kept connection has the same time limit as the first', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 300 } });
  for (const bytes of [`${HEAD}{"id":`, 'GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ', 'GET /hea']) {
    const connection = Connection.open(t, at).send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
    assert.equal((await connection.response()).status, 200);
    connection.send(bytes);
    const [late, ...more] = await connection.remaining();
    assert.deepEqual([late?.status, late?.headers.connection, more.length], [408, 'close', 0], bytes);
    assert.equal((JSON.parse(late!.text) as { code: string }).code, 'REQUEST_TIMEOUT', bytes);
  }
});

test('a body that trickles is 408 when the time limit of the request is over', async (t) => {
  const { at, store } = await serveApp(t, { limits: { requestTimeout: 300 } });
  for (const [head, piece] of [
    ['Content-Length: 100000', ' '],
    ['Transfer-Encoding: chunked', '1\r\n \r\n'],
  ] as const) {
    const connection = Connection.open(t, at);
    connection.send(`POST /registry/vms HTTP/1.1\r\nHost: a\r\n${head}\r\n\r\n`);
    const trickle = setInterval(() => connection.send(piece), 20);
    const late = await connection.response();
    clearInterval(trickle);
    assert.deepEqual([late.status, late.headers['content-type']?.split(';')[0]], [408, 'application/json'], head);
  }
  assert.equal(store.vms.size, 0);
});

test('a keep-alive connection may be idle for longer than the idle timeout of a load balancer', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 100 } });
  const connection = Connection.open(t, at);
  for (let n = 0; n < 3; n++) {
    connection.send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
    const { status, headers } = await connection.response();
    assert.equal(status, 200);
    // Load balancers close idle connections after 60 s; if the server closed first, they would send requests into the void.
    assert.equal(headers['keep-alive'], 'timeout=72');
    await setTimeout(250);
  }
});

test('the time limit covers the arrival of a request, not its time in the queue or its response', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 100 } });
  const connection = Connection.open(t, at);
  connection.send('GET /registry/discover/golden?wait=500ms HTTP/1.1\r\nHost: a\r\n\r\n');
  connection.send(HEAD + BODY);
  const responses = await connection.responses(['GET', 'POST']);
  assert.deepEqual(
    responses.map(({ status }) => status),
    [200, 201],
  );
});

test('an incomplete request behind a long poll is 408 after the response of the long poll', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 100 } });
  const connection = Connection.open(t, at);
  connection.send(`GET /registry/discover/golden?wait=500ms HTTP/1.1\r\nHost: a\r\n\r\n${HEAD}{`);
  const responses = await connection.remaining();
  assert.deepEqual(
    responses.map(({ status }) => status),
    [200, 408],
  );
});

test('during shutdown the response to a request in progress announces the end of its connection', async (t) => {
  const store = new SlowStore();
  const app = await serveApp(t, { store });
  const connection = Connection.open(t, app.at).send(HEAD + BODY);
  await store.reached;
  const closed = app.close();
  await isShut(app.at);
  store.letGo();
  const [response, ...more] = await connection.remaining();
  assert.deepEqual([response?.status, response?.headers.connection, more.length], [201, 'close', 0]);
  await closed;
});

test('during shutdown a request that has begun on a kept connection is answered', async (t) => {
  const app = await serveApp(t);
  const accepted: Socket[] = [];
  app.server.on('connection', (socket: Socket) => accepted.push(socket));
  const kept = Connection.open(t, app.at).send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal((await kept.response()).status, 200);
  const idle = Connection.open(t, app.at).send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal((await idle.response()).status, 200);
  const before = accepted[0]!.bytesRead;
  kept.send(HEAD + BODY.slice(0, 5));
  await until('the head to arrive', () => accepted[0]!.bytesRead > before);
  const closed = app.close();
  assert.equal((await idle.closed).length, 0);
  kept.send(BODY.slice(5));
  const [response, ...more] = await kept.remaining();
  assert.deepEqual([response?.status, response?.headers.connection, more.length], [201, 'close', 0]);
  await closed;
  assert.equal(app.store.vms.size, 1);
});

test('during shutdown every pipelined request that has arrived is answered or its connection is closed, in order', async (t) => {
  const store = new SlowStore();
  const app = await serveApp(t, { store });
  const connection = Connection.open(t, app.at);
  const next = ['a', 'b', 'c'].map((id) => `GET /registry/vms HTTP/1.1\r\nHost: a\r\nX-Request-Id: ${id}\r\n\r\n`);
  connection.send(HEAD + BODY + next.join(''));
  await store.reached;
  const closed = app.close();
  await isShut(app.at);
  store.letGo();
  const [first, ...rest] = await connection.remaining();
  assert.equal(first?.status, 201);
  assert.deepEqual(
    rest.map(({ headers }) => headers['x-request-id']),
    ['a', 'b', 'c'].slice(0, rest.length),
  );
  await closed;
});

test('the deadline of a shutdown cuts a client that does not read its response', async (t) => {
  const app = await serveApp(t, { limits: { requestTimeout: 400 } });
  const metadata = { blob: 'x'.repeat(900_000) };
  for (let n = 0; n < 16; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  const slow = Connection.open(t, app.at).send('GET /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n');
  await once(slow.socket, 'data');
  slow.socket.pause();
  await app.close();
  slow.socket.resume();
  assert.doesNotMatch((await slow.closed).toString('latin1'), /"count":16\}/);
});
