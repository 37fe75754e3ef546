/** Time limits and the way down: nothing is waited for without end, and nothing that was accepted is dropped. */
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { pino } from 'pino';
import { buildApp } from '../../../daemon/http/app.ts';
import { listen } from '../../../daemon/http/server/listen.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import type { Change } from '../../../daemon/store/store.ts';
import { accessTo, serveApp } from '../../helpers/app.ts';
import { FakeClock } from '../../helpers/clock.ts';
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

  override async commit(change: Change): Promise<void> {
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
    assert.match((JSON.parse(answer.text) as { error: string }).error, /did not arrive whole in time/);
    assert.equal(more.length, 0);
    assert.equal((await call(url, 'GET', '/health')).status, 200);
    assert.equal(store.vms.size, 0);
  });
}

test('an answer that has begun is cut when the body of its request does not come: nothing is written into it', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const socket = await opened(connect(at), 'GET /registry/events HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n');
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'close');
  const text = Buffer.concat(chunks).toString();
  assert.match(text, /^HTTP\/1\.1 200 OK\r\n/);
  assert.doesNotMatch(text, /408|error/);
});

test('a request that was answered before its body came is not answered once more when that does not come', async (t) => {
  const { at, logged } = await serveApp(t, { token: 's3cret', limits: { requestTimeout: 200 } });
  const answers = await exchange(at, HEAD);
  assert.deepEqual(
    answers.map(({ status }) => status),
    [401],
  );
  assert.equal(logged.filter((line) => line.includes('"audit":true')).length, 1);
});

test('a header that trickles is not given more time for it', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const socket = await opened(connect(at), 'GET /health HTTP/1.1\r\nHost: a\r\n');
  const trickle = setInterval(() => socket.write('X: y\r\n'), 20);
  const [answer] = await readAnswers(socket);
  clearInterval(trickle);
  assert.equal(answer?.status, 408);
});

test('a connection that never says a word is closed', async (t) => {
  const { at } = await serveApp(t, { limits: { requestTimeout: 200 } });
  const answers = await readAnswers(connect(at));
  assert.ok(answers.every(({ status }) => status === 408));
});

for (const kind of ['tcp', 'unix'] as const) {
  test(`on the way down a body under way over ${kind} is still taken and answered, and idle connections are closed`, async (t) => {
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

test('on the way down a commit under way is waited for', async (t) => {
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

test('a kept-alive connection does not hold up the way down after its last answer', async (t) => {
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

test('on the way down an answer that a slow client has not read yet is sent whole', async (t) => {
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

test('a body that never ends holds up the way down no longer than a request may take', async (t) => {
  const { tcp, close } = await listening(t, new MemoryStore(), { requestTimeout: 500 });
  const stalled = await opened(connect(tcp), `${HEAD}{`);
  const chunks: Buffer[] = [];
  stalled.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {});
  await call(`http://127.0.0.1:${tcp.port}`, 'GET', '/health');
  await close();
  assert.ok(parseAnswers(Buffer.concat(chunks)).every(({ status }) => status === 408));
});
