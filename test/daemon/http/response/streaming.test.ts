/**
 * Large responses: slow clients hold little of them, together no more than a memory budget, and other requests are
 * served meanwhile.
 */
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { get, IncomingMessage, ServerResponse } from 'node:http';
import { connect, Socket } from 'node:net';
import { Writable } from 'node:stream';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { pullStream, reserveFor, reserveText } from '../../../../daemon/http/response/streaming.ts';
import { Budget, createBudgets } from '../../../../daemon/limits/budgets.ts';
import type { VmList } from '../../../../src/protocol/api.ts';
import type { Vm } from '../../../../src/protocol/vm.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { readAnswers } from '../../../helpers/raw.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

function aResponse(): ServerResponse {
  return new ServerResponse(new IncomingMessage(new Socket()));
}

for (const path of ['/registry/vms', '/registry/events?since=start']) {
  test(`clients that do not read ${path} fill the responses buffer, and another one is 429 until one leaves`, async (t) => {
    const budgets = createBudgets({ responses: 2_050_000 });
    const { at, url, registry, server } = await serveApp(t, { budgets });
    // More than the kernel buffers for a client that does not read.
    const metadata = { pad: 'x'.repeat(1_000_000) };
    for (let n = 0; n < 24; n++) await registry.register(aVm({ id: `vm-${n}`, metadata }));
    await registry.register(aVm({ id: 'small' }));
    const served: Socket[] = [];
    server.on('connection', (socket: Socket) => served.push(socket));
    const slow = [1, 2].map(() => connect(at).pause());
    for (const [n, socket] of slow.entries()) {
      socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`);
      await until('the kernel to be full', () => (served[n]?.writableLength ?? 0) > 0);
      assert.ok(served[n]!.writableLength < 2_100_000, `${served[n]!.writableLength} bytes wait`);
    }
    const { revision } = registry;
    for (const [method, another, body] of [
      ['GET', '/registry/vms'],
      ['GET', '/registry/vms?sort=id'],
      ['GET', '/registry/events?since=start'],
      ['GET', '/registry/vms/vm-1'],
      ['GET', '/registry/vms/vm-1?include=liveness'],
      ['PATCH', '/registry/vms/vm-1', { name: 'new' }],
      ['PUT', '/registry/vms/small', aVm({ id: 'small', metadata })],
      ['POST', '/registry/vms', aVm({ id: 'large', metadata })],
    ] as const) {
      const refused = await call(url, method, another, { body });
      assert.deepEqual([refused.status, refused.headers.get('retry-after')], [429, '5'], another);
      assert.match(
        errorOf(refused),
        /^the responses buffer is full \(limit 2 MiB\): clients read responses too slowly/,
      );
    }
    assert.equal(registry.revision, revision, 'a request without a response changes nothing');
    // Small responses are not counted.
    assert.equal((await call(url, 'GET', '/registry/discover/infra')).status, 200);
    assert.equal((await call(url, 'PATCH', '/registry/vms/small', { body: { name: 'new' } })).status, 200);
    assert.equal((await call(url, 'DELETE', '/registry/vms/vm-2')).status, 200);
    slow[0]!.destroy();
    await until(
      'the budget to be released',
      async () => (await fetch(`${url}/registry/vms`, { method: 'HEAD' })).status === 200,
    );
    const answers = readAnswers(slow[1]!);
    slow[1]!.end();
    slow[1]!.resume();
    if (path === '/registry/vms') assert.equal((await answers)[0]?.status, 200);
    slow[1]!.destroy();
  });
}

test('a chunk is produced when the one before is read, and only this chunk is reserved', async () => {
  const budget = new Budget('responses', 100);
  let produced = 0;
  const next = async () => (++produced > 5 ? undefined : 'x'.repeat(produced * 10));
  const stream = pullStream(next, reserveFor(aResponse(), budget));
  let read = () => {};
  const lengths: number[] = [];
  const client = new Writable({
    highWaterMark: 1,
    write: ({ length }: Buffer, _, done) => {
      lengths.push(length);
      read = done;
    },
  });
  stream.pipe(client);
  for (let n = 1; n <= 5; n++) {
    await until(`chunk ${n}`, () => lengths.length === n);
    for (let turn = 0; turn < 5; turn++) await setImmediate();
    assert.deepEqual([produced, budget.used], [n, n * 10]);
    read();
  }
  await until('the end', () => client.writableFinished);
  assert.equal(budget.used, 0);
});

test('a stream whose source fails is destroyed with its error', async () => {
  const reservation = new Budget('responses', 100).reserve();
  const stream = pullStream(() => Promise.reject(new Error('broken')), reservation);
  await assert.rejects(stream.toArray(), /broken/);
});

test('a text response is counted unless it is small, and the response to a change is counted but not refused', () => {
  const budget = new Budget('responses', 40_000);
  const response = aResponse();
  reserveText(aResponse(), budget, 'x'.repeat(16_384), false);
  assert.equal(budget.used, 0);
  reserveText(response, budget, 'é'.repeat(20_000), false);
  assert.equal(budget.used, 40_000);
  assert.throws(() => reserveText(aResponse(), budget, 'x'.repeat(20_000), false), { code: 'TOO_MANY_REQUESTS' });
  reserveText(aResponse(), budget, 'x'.repeat(20_000), true);
  assert.equal(budget.used, 60_000);
  response.emit('close');
  assert.equal(budget.used, 20_000);
});

test('a response that is closed, or was closed already, reserves nothing', () => {
  const budget = new Budget('responses', 100);
  const [open, gone] = [aResponse(), aResponse()];
  const reservation = reserveFor(open, budget, 60);
  reservation.share({}, 30);
  assert.equal(budget.used, 90);
  assert.throws(() => reserveFor(aResponse(), budget, 20), { code: 'TOO_MANY_REQUESTS', retryAfter: 5 });
  open.emit('close');
  reservation.resize(50);
  assert.equal(budget.used, 0);
  gone.destroy();
  const late = reserveFor(gone, budget, 50);
  late.share({}, 50);
  assert.equal(budget.used, 0);
});

test('all lists between two changes are the same array', async (t) => {
  const { registry } = await serveApp(t);
  const ids = () => registry.list({}).map(({ vm }) => vm.id);
  for (const id of ['a', 'b']) await registry.register(aVm({ id }));
  const before = registry.list({});
  registry.heartbeat('a');
  assert.equal(registry.list({}), before);
  await registry.register(aVm({ id: 'c' }));
  assert.deepEqual(ids(), ['c', 'b', 'a']);
  await registry.update('b', { name: 'new' });
  assert.equal(registry.list({})[1]!.vm.name, 'new');
  await registry.deregister('b');
  assert.deepEqual(ids(), ['c', 'a']);
  assert.deepEqual(
    before.map(({ vm }) => vm.id),
    ['b', 'a'],
  );
});

/** About 3 MB in 3000 entries. */
async function largeRegistry(t: Parameters<typeof serveApp>[0]) {
  const app = await serveApp(t);
  const metadata = { pad: 'ü'.repeat(500) };
  for (let n = 0; n < 3000; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  return app;
}

test('a long list has all entries in order, and a content-length', async (t) => {
  const { url, registry } = await largeRegistry(t);
  const expected = registry.list({}).map(({ json }) => JSON.parse(json) as Vm);
  const answer = await fetch(`${url}/registry/vms`);
  const text = await answer.text();
  assert.equal(Buffer.byteLength(text), Number(answer.headers.get('content-length')));
  assert.deepEqual(JSON.parse(text), { vms: expected, count: 3000 });
  const extended = (await call(url, 'GET', '/registry/vms?include=liveness&sort=id')).body as VmList;
  assert.deepEqual(
    extended.vms,
    expected.toSorted((a, b) => (a.id < b.id ? -1 : 1)).map((vm) => ({ ...vm, stale: false })),
  );
  const headed = await call(url, 'HEAD', '/registry/vms');
  assert.equal(headed.headers.get('content-length'), answer.headers.get('content-length'));
});

test('changes during the transfer of a long list do not change it', async (t) => {
  const { url, registry, clock } = await largeRegistry(t);
  const answer = await new Promise<IncomingMessage>((resolve) => get(`${url}/registry/vms`, { agent: false }, resolve));
  await registry.deregister('vm-0');
  await registry.update('vm-1', { name: 'another' });
  clock.pass(1000);
  registry.heartbeat('vm-2');
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  const { vms, count } = JSON.parse(text) as VmList;
  assert.deepEqual([vms.length, count], [3000, 3000]);
  assert.deepEqual([vms[2999]!.id, vms[2998]!.name], ['vm-0', 'one']);
});

test('a client that aborts a long list leaves no error in the log', async (t) => {
  const { url, at, logged } = await largeRegistry(t);
  for (let n = 0; n < 10; n++) {
    const socket = connect(at);
    socket.write('GET /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(socket, 'data');
    socket.destroy();
  }
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  assert.deepEqual(
    logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
    [],
  );
});

test('a long poll for a long list leaves no listener behind when its client leaves', async (t) => {
  const { at, registry } = await largeRegistry(t);
  const signals = new Set<AbortSignal>();
  const { addEventListener } = AbortSignal.prototype;
  t.mock.method(AbortSignal.prototype, 'addEventListener', function (this: AbortSignal, ...args: [string, () => void]) {
    signals.add(this);
    addEventListener.apply(this, args);
  });
  const listeners = () => [...signals].reduce((sum, signal) => sum + getEventListeners(signal, 'abort').length, 0);
  const socket = connect(at);
  const min = registry.counts.vms + 1;
  socket.write(`GET /registry/discover/worker?wait=30s&min=${min} HTTP/1.1\r\nHost: a\r\n\r\n`);
  await until('the long poll waits', () => listeners() > 0);
  socket.destroy();
  await until('the long poll has ended', () => listeners() === 0);
});

test('a read of one VM is answered while expensive selectors are evaluated', async (t) => {
  const { url, registry } = await serveApp(t);
  const metadata = { deep: Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`key${n}`, n])) };
  for (let n = 0; n < 40; n++) await registry.register(aVm({ id: `vm-${n}`, metadata }));
  const path = `/registry/vms?limit=1&selector=${encodeURIComponent('deep!={}')}`;
  let lists = 0;
  const made = Promise.all(
    Array.from({ length: 5 }, async () => {
      assert.equal((await call(url, 'GET', path)).status, 200);
      lists++;
    }),
  );
  let answers = 0;
  while (lists < 5) {
    assert.equal((await call(url, 'GET', '/registry/vms/vm-1/why')).status, 200);
    answers++;
  }
  await made;
  assert.ok(answers > 20, `${answers} answers`);
});

test('large bodies that arrive together are parsed one per turn of the event loop', async (t) => {
  const app = await serveApp(t);
  const served: Socket[] = [];
  app.server.on('connection', (socket: Socket) => served.push(socket));
  const metadata = Object.fromEntries(Array.from({ length: 80_000 }, (_, n) => [n.toString(36), n]));
  const half = Array.from({ length: 12 }, (_, n) => {
    const body = JSON.stringify(aVm({ id: `vm-${n}`, metadata }));
    const socket = connect(app.at);
    const head = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
    socket.write(head + body.slice(0, -1));
    return { socket, length: head.length + body.length - 1, answers: readAnswers(socket) };
  });
  const whole = half.reduce((sum, { length }) => sum + length, 0);
  await until('all but the last bytes to be read', () => served.reduce((sum, s) => sum + s.bytesRead, 0) === whole);
  // Immediates run at the end of each turn, so this counts turns.
  let turn = 0;
  let next = globalThis.setImmediate(function count() {
    turn++;
    next = globalThis.setImmediate(count);
  });
  const changes = new Map<number, number>();
  const commit = app.store.commit.bind(app.store);
  app.store.commit = (change) => {
    changes.set(turn, (changes.get(turn) ?? 0) + 1);
    return commit(change);
  };
  for (const { socket } of half) socket.write('}');
  for (const { answers } of half) assert.equal((await answers)[0]?.status, 201);
  globalThis.clearImmediate(next);
  const most = Math.max(...changes.values());
  // One immediately, and one at the end of the turn.
  assert.ok(most <= 2, `${most} of them were parsed in one turn`);
});
