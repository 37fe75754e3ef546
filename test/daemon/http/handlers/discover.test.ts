/** `GET /registry/discover/:role?wait=`: the response waits until enough VMs are live, and no longer. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { pino } from 'pino';
import { buildApp } from '../../../../daemon/http/app.ts';
import { LongPollQueue } from '../../../../daemon/http/handlers/long-poll-queue.ts';
import { listen } from '../../../../daemon/http/server/listen.ts';
import { Scheduler } from '../../../../daemon/limits/scheduler.ts';
import type { EventSubscriber } from '../../../../daemon/registry/events.ts';
import { Registry } from '../../../../daemon/registry/registry.ts';
import { MonitoredStore } from '../../../../daemon/store/monitored-store.ts';
import type { VmList } from '../../../../src/protocol/api.ts';
import { accessTo, type ServedApp, serveApp } from '../../../helpers/app.ts';
import { FakeClock } from '../../../helpers/clock.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;
const WAIT = '/registry/discover/worker?wait=50s';

async function discover(url: string, query: string): Promise<string[]> {
  const { status, body } = await call(url, 'GET', `/registry/discover/worker?${query}`);
  assert.equal(status, 200);
  const { vms, count } = body as VmList;
  assert.equal(count, vms.length);
  return vms.map(({ id }) => id);
}

/** Starts a long poll and returns when it waits. */
async function startPoll({ url, registry }: ServedApp, query: string): Promise<{ answer: Promise<string[]> }> {
  const before = registry.events.subscriberCount;
  const answer = discover(url, query);
  await until('the long poll to wait', () => registry.events.subscriberCount > before);
  return { answer };
}

test('discover responds immediately if enough VMs are live, or if min is 0', async (t) => {
  const { url, registry } = await serveApp(t);
  assert.deepEqual(await discover(url, 'wait=50s&min=0'), []);
  for (const id of ['a', 'b']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  assert.deepEqual(await discover(url, 'wait=50s'), ['a', 'b']);
  assert.deepEqual(await discover(url, 'wait=50s&min=2'), ['a', 'b']);
  assert.equal(registry.events.subscriberCount, 0);
});

test('a VM that registers, resumes, changes to the role or is revived completes a long poll', async (t) => {
  const app = await serveApp(t);
  const { url, clock, registry } = app;
  const one = await startPoll(app, 'wait=50s');
  const two = await startPoll(app, 'wait=50s&min=2');
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'other', role: 'infra' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'paused', status: 'paused' }) });
  assert.equal(registry.events.subscriberCount, 2);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'new' }) });
  assert.deepEqual(await one.answer, ['new']);
  await call(url, 'PATCH', '/registry/vms/paused', { body: { status: 'running' } });
  assert.deepEqual(await two.answer, ['paused', 'new']);

  const three = await startPoll(app, 'wait=50s&min=3');
  await call(url, 'PUT', '/registry/vms/other', { body: aVm({ id: 'other' }) });
  assert.deepEqual(await three.answer, ['other', 'paused', 'new']);

  clock.pass(LEASE + 1);
  registry.sweep();
  const revived = await startPoll(app, 'wait=50s');
  await call(url, 'POST', '/registry/vms/new/heartbeat');
  assert.deepEqual(await revived.answer, ['new']);
  assert.equal(registry.events.subscriberCount, 0);
});

test('a VM that is revived before a sweep has found it stale completes a long poll', async (t) => {
  const app = await serveApp(t);
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  app.clock.pass(LEASE + 1);
  const held = await startPoll(app, 'wait=50s');
  await call(app.url, 'POST', '/registry/vms/vm-1/heartbeat');
  assert.deepEqual(await held.answer, ['vm-1']);
});

test('when the time is up the response lists the VMs that are live', async (t) => {
  const { url, registry } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  const started = performance.now();
  assert.deepEqual(await discover(url, 'wait=120ms&min=2'), ['vm-1']);
  assert.ok(performance.now() - started >= 110);
  assert.deepEqual(await discover(url, 'wait=0s&min=2'), ['vm-1']);
  assert.deepEqual(await discover(url, 'wait=0.05s&min=2'), ['vm-1']);
  assert.deepEqual(await discover(url, 'wait=0.05&min=2'), ['vm-1']);
  assert.deepEqual(await discover(url, 'min=2'), ['vm-1']);
  assert.equal(registry.events.subscriberCount, 0);
});

test('an invalid wait or min is 400, even if there is nothing to wait for', async (t) => {
  const { url } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  for (const wait of ['30x', 'soon', '-1s', '1h30', '1e3s', 's', 'Infinitys', '1s ']) {
    for (const role of ['worker', 'infra']) {
      const answer = await call(url, 'GET', `/registry/discover/${role}?wait=${encodeURIComponent(wait)}`);
      assert.equal(answer.status, 400, wait);
      assert.match(errorOf(answer), /^wait: ".*" is not a duration such as 30s$/);
    }
  }
  for (const min of ['-1', '1.5', 'all', '1e3']) {
    const answer = await call(url, 'GET', `/registry/discover/worker?wait=1s&min=${min}`);
    assert.equal(answer.status, 400, min);
    assert.match(errorOf(answer), /^min: /);
  }
});

test('a client that disconnects ends its long poll', async (t) => {
  const { at, registry } = await serveApp(t);
  const socket = connect(at);
  socket.on('error', () => {});
  socket.write('GET /registry/discover/worker?wait=50s HTTP/1.1\r\nHost: a\r\n\r\n');
  await until('the long poll to wait', () => registry.events.subscriberCount === 1);
  socket.destroy();
  await until('the long poll to end', () => registry.events.subscriberCount === 0);
});

test('when the daemon stops, long polls respond and streams end, even those that arrive during the shutdown', async () => {
  const store = new MemoryStore();
  const registry = new Registry({ store, clock: new FakeClock(), staleAfter: LEASE }, store.contents());
  const app = buildApp({
    registry,
    store: new MonitoredStore(store),
    authenticator: accessTo(registry, store),
    version: '0.0.0',
    log: pino({ level: 'silent' }),
  });
  const { port, close } = await listen(app, { tcp: { host: '127.0.0.1', port: 0 } });
  const accepted: Socket[] = [];
  app.server.on('connection', (socket) => accepted.push(socket));
  const ask = async (path: string, ...parts: readonly string[]) => {
    const socket = connect(port!, '127.0.0.1');
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => {});
    const closed = once(socket, 'close');
    await once(socket, 'connect');
    socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n${parts[0] ?? '\r\n'}`);
    return { socket, closed, text: () => text };
  };
  const held = await ask('/registry/discover/worker?wait=50s');
  const stream = await ask('/registry/events');
  // These requests are incomplete, so the daemon receives the rest of them during its shutdown.
  const late = await ask('/registry/discover/worker?wait=50s', 'X-Late: ');
  const lateStream = await ask('/registry/events', 'X-Late: ');
  await until('both to wait', () => registry.events.subscriberCount === 2);
  await until('the other requests to arrive', () => accepted.filter(({ bytesRead }) => bytesRead > 0).length === 4);
  const started = performance.now();
  const closed = close();
  await Promise.all([held.closed, stream.closed]);
  for (const { socket } of [late, lateStream]) socket.write('y\r\n\r\n');
  await Promise.all([closed, late.closed, lateStream.closed]);
  assert.ok(performance.now() - started < 5000);
  for (const { text } of [held, late]) assert.match(text(), /\{"vms":\[\],"count":0\}$/);
  for (const { text } of [stream, lateStream]) assert.match(text(), /event: synced\n/);
  assert.equal(registry.events.subscriberCount, 0);
});

test('one more long poll or event stream than the limit is 429, until another one has ended', async (t) => {
  const { url, registry } = await serveApp(t, { limits: { maxOpenStreams: 2 } });
  const stream = await readEvents(t, url);
  const wait = call(url, 'GET', WAIT);
  await until('both to wait', () => registry.events.subscriberCount === 2);
  for (const path of [WAIT, '/registry/events']) {
    const { status, headers, body } = await call(url, 'GET', path);
    assert.deepEqual(
      [status, headers.get('retry-after'), (body as { code: string }).code],
      [429, '5', 'TOO_MANY_REQUESTS'],
    );
    assert.match((body as { error: string }).error, /^too many open streams \(limit 2\)/);
  }
  // A response without waiting does not count.
  assert.equal((await call(url, 'GET', '/registry/discover/worker?wait=50s&min=0')).status, 200);
  stream.drop();
  await until('the stream to end', () => registry.events.subscriberCount === 1);
  const again = call(url, 'GET', WAIT);
  await until('the long poll to wait', () => registry.events.subscriberCount === 2);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  assert.deepEqual([(await wait).status, (await again).status], [200, 200]);
  const third = await readEvents(t, url);
  assert.equal(third.status, 200);
});

test('a hundred long polls with two different queries are each answered when their own query is satisfied', async (t) => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on('warning', note);
  t.after(() => process.off('warning', note));
  const { url, registry } = await serveApp(t);
  const ask = async (query: string) => ((await call(url, 'GET', `${WAIT}${query}`)).body as VmList).count;
  const one = Array.from({ length: 60 }, () => ask(''));
  const two = Array.from({ length: 40 }, () => ask('&min=2&service=web'));
  await until('all to wait', () => registry.events.subscriberCount === 100);
  const services = [{ name: 'web', port: 80 }];
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', services }) });
  assert.deepEqual(await Promise.all(one), Array(60).fill(1));
  assert.equal(registry.events.subscriberCount, 40);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'b' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'c', services }) });
  assert.deepEqual(await Promise.all(two), Array(40).fill(2));
  assert.equal(registry.events.subscriberCount, 0);
  assert.deepEqual(warnings, []);
});

test('a heartbeat that cannot complete a long poll calls none of them and searches nothing', async (t) => {
  const app = await serveApp(t);
  const { registry } = app;
  const called: string[] = [];
  const subscribe = registry.events.subscribe.bind(registry.events);
  t.mock.method(registry.events, 'subscribe', (subscriber: EventSubscriber) => {
    const entries = Object.entries(subscriber).map(([name, method]) => [
      name,
      (...args: unknown[]) => {
        called.push(name);
        return method(...args);
      },
    ]);
    return subscribe(Object.fromEntries(entries));
  });
  const services = [{ name: 'web', port: 80 }];
  const report = { health: { web: 'failing' } } as const;
  for (const id of ['a', 'b']) await registry.register(aVm({ id, services }));
  registry.heartbeat('a', report);
  const polls: { answer: Promise<string[]> }[] = [];
  for (const query of ['', '&strict=true', '&service=web&passing=true']) {
    for (let n = 0; n < 3; n++) polls.push(await startPoll(app, `wait=50s&min=3${query}`));
  }
  const discover = t.mock.method(registry, 'discover');
  for (let n = 0; n < 100; n++) {
    app.clock.pass(1000);
    registry.heartbeat('a', report);
    registry.heartbeat('b');
  }
  // The polls are checked in a later turn of the event loop, as this request is.
  await call(app.url, 'POST', '/registry/vms/a/heartbeat');
  assert.deepEqual([called, discover.mock.callCount()], [[], 0]);
  registry.heartbeat('a', { health: { web: 'passing' } });
  assert.deepEqual(called, Array(9).fill('discoverable'));
  await until('the three queries to be searched', () => discover.mock.callCount() === 3);
  await registry.register(aVm({ id: 'c', services }));
  for (const id of ['b', 'c']) registry.heartbeat(id, { health: { web: 'passing' } });
  for (const { answer } of polls) assert.deepEqual(await answer, ['a', 'b', 'c']);
});

test('a heartbeat that reports a passing service completes a long poll with passing=true', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ services: [{ name: 'web', port: 80 }] }));
  const poll = await startPoll(app, 'wait=50s&service=web&passing=true');
  for (const web of ['failing', 'passing'])
    await call(app.url, 'POST', '/registry/vms/vm-1/heartbeat', { body: { health: { web } } });
  assert.deepEqual(await poll.answer, ['vm-1']);
});

test('the first heartbeat after a pause of the registry completes a long poll with strict=true', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm());
  app.clock.pass(1000);
  app.clock.miss(LEASE);
  app.clock.pass(1000);
  assert.deepEqual(await discover(app.url, ''), ['vm-1']);
  const poll = await startPoll(app, 'wait=50s&strict=true');
  await call(app.url, 'POST', '/registry/vms/vm-1/heartbeat');
  assert.deepEqual(await poll.answer, ['vm-1']);
});

test('an expired long poll is answered before groups that may wait longer are checked', async () => {
  const queue = new LongPollQueue(new Scheduler());
  const checks: string[] = [];
  const join = (key: string, finish = () => {}) => {
    const find = () => {
      checks.push(key);
      return [];
    };
    return queue.join(key, find, 1, finish);
  };
  const others = ['a', 'b', 'c'].map((key) => join(key));
  await new Promise<void>((resolve) => {
    const last = join('last', () => {
      last.leave();
      resolve();
    });
    for (const other of others) other.recheck();
    last.expire();
  });
  assert.equal(checks[0], 'last');
  await until('the other checks', () => checks.length === 4);
  assert.deepEqual(checks, ['last', 'a', 'b', 'c']);
});

test('a long poll carries the position of the change that ended it', async (t) => {
  const { url, registry } = await serveApp(t);
  const before = registry.events.subscriberCount;
  const answer = fetch(`${url}${WAIT}`, { headers: { 'x-vreg-client': '1' } });
  await until('the long poll to wait', () => registry.events.subscriberCount > before);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  assert.equal((await answer).headers.get('x-vreg-position'), registry.positions.current);
});
