/** HTTP/1.1 pipelining: order, back-pressure, and the memory of requests that wait. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { createBudgets } from '../../../../daemon/limits/budgets.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { call } from '../../../helpers/http.ts';
import { exchange, parseAnswers, readAnswers } from '../../../helpers/raw.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LONG_POLL = 'GET /registry/discover/worker?wait=50s HTTP/1.1\r\nHost: a\r\n\r\n';
const LAST = 'GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n';

/** A request whose response is recognized by its id. */
const numbered = (n: number) => `GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: ${n}\r\n\r\n`;

function opened(t: TestContext, { at }: ServedApp): Socket {
  const socket = connect(at).on('error', () => {});
  t.after(() => socket.destroy());
  return socket;
}

const isPolling = ({ registry }: ServedApp) => until('the long poll', () => registry.events.subscriberCount > 0);
const endPoll = ({ url }: ServedApp) => call(url, 'POST', '/registry/vms', { body: aVm({ id: 'worker-1' }) });

test('300 small requests in one write get 300 responses, in order', async (t) => {
  const app = await serveApp(t);
  const ids = Array.from({ length: 300 }, (_, n) => String(n));
  const answers = await exchange(app.at, ids.map((id) => numbered(Number(id))).join('') + LAST);
  assert.deepEqual(
    answers.map(({ status, headers }) => [status, headers['x-request-id']]).slice(0, 300),
    ids.map((id) => [200, id]),
  );
  assert.equal(answers.length, 301);
});

test('3,600 requests in one chunk are all answered', async (t) => {
  const app = await serveApp(t);
  const answers = await exchange(app.at, 'GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n'.repeat(3600) + LAST);
  assert.equal(answers.length, 3601);
  assert.ok(answers.slice(0, 3600).every(({ status }) => status === 404));
});

test('the requests of one connection are handled one after the other', async (t) => {
  const app = await serveApp(t);
  const register = (id: string) => {
    const body = JSON.stringify(aVm({ id }));
    return `POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  };
  const answers = exchange(app.at, LONG_POLL + register('b').repeat(99) + LAST);
  await isPolling(app);
  await endPoll(app);
  assert.deepEqual(
    (await answers).map(({ status }) => status),
    [200, 201, ...Array(98).fill(409), 200],
  );
});

test('a connection that sends more than may wait is paused, and every request gets its response', async (t) => {
  const app = await serveApp(t);
  const accepted = once(app.server, 'connection') as Promise<[Socket]>;
  const socket = opened(t, app);
  const [serverSide] = await accepted;
  const count = 40_000;
  const requests = Array.from({ length: count }, (_, n) => numbered(n)).join('');
  const answers = readAnswers(socket);
  socket.write(LONG_POLL + requests + LAST);
  await isPolling(app);
  await until('the pause', () => serverSide.isPaused());
  assert.ok(serverSide.bytesRead < requests.length / 4, `${serverSide.bytesRead} bytes were read`);
  await endPoll(app);
  const [first, ...rest] = await answers;
  assert.match(first!.text, /"id":"worker-1"/);
  assert.equal(rest.length, count + 1);
  assert.ok(
    rest.slice(0, count).every(({ status, headers }, n) => status === 200 && headers['x-request-id'] === `${n}`),
  );
});

for (const [how, leave] of [
  ['ends', (socket: Socket) => socket.end()],
  ['resets', (socket: Socket) => socket.resetAndDestroy()],
] as const) {
  test(`a long poll ends when its client ${how} the connection, although it is paused`, async (t) => {
    const app = await serveApp(t);
    const accepted = once(app.server, 'connection') as Promise<[Socket]>;
    const socket = opened(t, app);
    const [serverSide] = await accepted;
    socket.write(LONG_POLL + numbered(1).repeat(300));
    await isPolling(app);
    await until('the pause', () => serverSide.isPaused());
    leave(socket);
    await until('the long poll to end', () => app.registry.events.subscriberCount === 0);
    await until('the connection to end', () => serverSide.destroyed);
  });
}

test('when the budget is used up, a connection gets 429 after its responses, and its memory is released', async (t) => {
  const budgets = createBudgets({ pipelined: 100_000 });
  const app = await serveApp(t, { budgets });
  const padded = `GET /health HTTP/1.1\r\nHost: a\r\nX-Pad: ${'a'.repeat(12_000)}\r\n\r\n`;
  // Each waiting request occupies 16 KB, Node's objects included.
  const first = opened(t, app);
  first.write(LONG_POLL + padded.repeat(5));
  await until('the budget to fill', () => budgets.pipelined.used > 80_000);
  const second = opened(t, app);
  const answers = readAnswers(second);
  second.write(padded + LONG_POLL + padded.repeat(3));
  await until('both long polls', () => app.registry.events.subscriberCount === 2);
  first.destroy();
  await until('the memory of the first to be released', () => budgets.pipelined.used < 20_000);
  await endPoll(app);
  const statuses = (await answers).map(({ status, text }) => [status, (JSON.parse(text) as { code?: string }).code]);
  assert.deepEqual(statuses.at(-1), [429, 'TOO_MANY_REQUESTS']);
  assert.ok(statuses.slice(0, -1).every(([status]) => status === 200));
  await until('all memory to be released', () => budgets.pipelined.used === 0);
});

test('the responses that precede a malformed request are sent before its error', async (t) => {
  const app = await serveApp(t);
  const answers = await exchange(app.at, `${numbered(1).repeat(150)}nonsense\r\n\r\n`);
  assert.equal(answers.length, 151);
  assert.equal(answers.at(-1)!.status, 400);
  assert.ok(answers.slice(0, -1).every(({ status }) => status === 200));
});

test('a kept-alive connection serves requests after it was paused', async (t) => {
  const app = await serveApp(t);
  const socket = opened(t, app);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const answered = () => parseAnswers(Buffer.concat(chunks)).length;
  for (let round = 1; round <= 5; round++) {
    socket.write(numbered(round).repeat(500));
    await until('the responses of this round', () => answered() === 500 * round);
  }
});
