/** The event stream behind the fleet page, against a real registry: what reaches the tabs. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { FleetMessage } from '../src/page/fleet-message.ts';
import { FleetStream } from '../src/page/fleet-stream.ts';
import { serveApp } from './helpers/app.ts';
import { seed } from './helpers/cli.ts';
import { call } from './helpers/http.ts';
import { stub } from './helpers/stub.ts';
import { until } from './helpers/until.ts';
import { aVm } from './helpers/vm.ts';

/** Follows a registry until the test ends. @returns the stream, and its messages so far */
function follow(t: TestContext, url: string, silence?: number) {
  const messages: FleetMessage[] = [];
  const stream = new FleetStream(new URL(`${url}/`), (message) => messages.push(message), silence);
  void stream.run();
  t.after(() => stream.stop());
  return { stream, messages };
}

const isLive = (messages: readonly FleetMessage[]) =>
  messages.some((message) => message.type === 'link' && message.connection === 'live');

test('a heartbeat reaches the tabs as the new time of its VM', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const { messages } = follow(t, url);
  await until('the stream to be live', () => isLive(messages));
  clock.pass(10_000);
  await call(url, 'POST', '/registry/vms/a/heartbeat');
  await until('the heartbeat', () => messages.some(({ type }) => type === 'seen'));
  assert.deepEqual(
    messages.find(({ type }) => type === 'seen'),
    { type: 'seen', ids: ['a'], at: [clock.now()] },
  );
});

for (const type of ['reset', 'lagged']) {
  test(`after "${type}", the list is read again`, async (t) => {
    let lists = 0;
    const url = await stub(t, (request, response) => {
      if (request.url!.startsWith('/registry/events')) {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        // The response does not end by itself.
        response.write(lists === 1 ? `event: ${type}\ndata: {"revision":7}\n\n` : ': still here\n\n');
        return;
      }
      lists++;
      response.setHeader('content-type', 'application/json');
      response.end('{"vms":[],"count":0}');
    });
    const { messages } = follow(t, url);
    await until('the second list', () => lists === 2);
    assert.ok(messages.some((message) => message.type === 'link' && message.connection === 'reconnecting'));
  });
}

test('the tabs get the last 1000 of a burst of events', async (t) => {
  const vm = { ...aVm({ id: 'a' }), registeredAt: '2026-01-01T00:00:00Z', lastSeen: '2026-01-01T00:00:00Z' };
  const burst = Array.from({ length: 5000 }, (_, index) => {
    const data = JSON.stringify({ revision: index + 1, at: '2026-01-01T00:00:00Z', vm });
    return `event: updated\ndata: ${data}\n\n`;
  }).join('');
  const url = await stub(t, (request, response) => {
    if (request.url!.startsWith('/registry/events')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(burst);
      return;
    }
    response.setHeader('content-type', 'application/json');
    response.end('{"vms":[],"count":0}');
  });
  const { messages } = follow(t, url);
  const batches = () => messages.filter((message) => message.type === 'events');
  await until('the last event', () => batches().at(-1)?.events.at(-1)?.revision === 5000);
  for (const { events } of batches()) assert.ok(events.length <= 1000);
});

test('a registry that accepts a request and never answers counts as lost', async (t) => {
  const url = await stub(t, () => {});
  const { messages } = follow(t, url, 50);
  await until('the reconnection', () =>
    messages.some((message) => message.type === 'link' && message.reason === 'the registry is silent'),
  );
});

test('a refusal whose body never ends is a refusal', async (t) => {
  const url = await stub(t, (_, response) => {
    response.writeHead(503, { 'content-type': 'application/json' });
    response.write('{"error":');
  });
  const { messages } = follow(t, url, 50);
  await until('the reconnection', () =>
    messages.some((message) => message.type === 'link' && message.reason === 'the registry answered with 503'),
  );
});

test('the answer of a registry that is loading differs from no answer', async (t) => {
  const url = await stub(t, (_, response) => {
    response.writeHead(503, { 'content-type': 'application/json' });
    response.end('{"error":"the registry is loading"}');
  });
  const { messages } = follow(t, url);
  await until('the reason', () =>
    messages.some(
      (message) => message.type === 'link' && message.isReachable && message.reason === 'the registry is loading',
    ),
  );
});

test('after the end of a session, no tab gets the fleet that it has read', async (t) => {
  let isLoggedIn = true;
  const url = await stub(t, (request, response) => {
    if (request.url!.startsWith('/registry/events')) isLoggedIn = false;
    response.writeHead(isLoggedIn ? 200 : 401, { 'content-type': 'application/json' });
    const vm = { ...aVm({ id: 'a' }), registeredAt: '2026-01-01T00:00:00Z', lastSeen: '2026-01-01T00:00:00Z' };
    response.end(JSON.stringify(isLoggedIn ? { vms: [vm], count: 1 } : {}));
  });
  const { stream, messages } = follow(t, url);
  await until('the end of the session', () =>
    messages.some((message) => message.type === 'link' && message.connection === 'logged-out'),
  );
  assert.deepEqual(
    [...stream.snapshot()].map(({ type }) => type),
    ['link', 'reset'],
  );
});

test('a new session gets nothing of the fleet that the previous one has read', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const { stream, messages } = follow(t, url);
  await until('the stream to be live', () => isLive(messages));
  messages.length = 0;
  stream.renew();
  assert.deepEqual(
    [...stream.snapshot()].map(({ type }) => type),
    ['link', 'reset'],
  );
  await until('the stream to be live again', () => isLive(messages));
  assert.ok(messages.every((message) => message.type !== 'link' || message.connection !== 'reconnecting'));
  assert.equal(messages.filter(({ type }) => type === 'put').length, 1);
});
