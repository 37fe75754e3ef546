/** `GET /registry/events`: every event, in order, without a gap, and without slowing down writers. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { createBudgets } from '../../../../daemon/limits/budgets.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call } from '../../../helpers/http.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;
/** Close to the maximum size of an entry. A few of these fill the socket buffers of any kernel. */
const LARGE = { blob: 'x'.repeat(900_000) };

async function open(t: TestContext, socket: Socket, path: string, times = 1): Promise<Socket> {
  socket.on('error', () => {});
  // An open connection of a test that failed would keep the process running.
  t.after(() => socket.destroy());
  await once(socket, 'connect');
  socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`.repeat(times));
  return socket;
}

/** The tag of a position. */
function tagOf(position: string): string {
  return position.split('-')[1]!;
}

test('every change and every liveness change is sent in order, with its position as id', async (t) => {
  const { url, clock, registry, store } = await serveApp(t);
  const reader = await readEvents(t, url);
  assert.equal(reader.status, 200);
  assert.equal(reader.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(reader.headers['cache-control'], 'no-store');
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  await call(url, 'PATCH', '/registry/vms/vm-1', { body: { name: 'two' } });
  await call(url, 'PATCH', '/registry/vms/vm-1', { body: { status: 'paused' } });
  await call(url, 'PATCH', '/registry/vms/vm-1', { body: { status: 'running' } });
  clock.pass(LEASE + 1);
  registry.sweep();
  registry.sweep();
  await call(url, 'POST', '/registry/vms/vm-1/heartbeat');
  await call(url, 'DELETE', '/registry/vms/vm-1');
  await reader.seen('deregistered');
  assert.deepEqual(
    reader.told.map(({ id, event }) => [event.type, id, 'revision' in event && store.changeOf(event.revision)]),
    [
      ['synced', store.positionAt(0), 0],
      ['registered', store.positionAt(1), 1],
      ['updated', store.positionAt(2), 2],
      ['status', store.positionAt(3), 3],
      ['status', store.positionAt(4), 4],
      ['stale', store.positionAt(4), 4],
      ['revived', store.positionAt(4), 4],
      ['deregistered', store.positionAt(5), 5],
    ],
  );
  const events = reader.told.slice(1).map(({ event }) => event as VmEvent);
  assert.deepEqual(events[1]?.changes, { name: ['one', 'two'] });
  assert.deepEqual(events[2]?.changes, { status: ['running', 'paused'] });
  assert.deepEqual([events[0]?.changes, events[6]?.changes], [undefined, undefined]);
  assert.deepEqual(
    events.map(({ by }) => by),
    ['anonymous', 'anonymous', 'anonymous', 'anonymous', undefined, undefined, 'anonymous'],
  );
  assert.equal(events[6]?.vm.name, 'two');
});

test('a change that revives a VM is sent before the revived event, so that a client that disconnects between them misses nothing', async (t) => {
  const { url, clock, registry, store } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  const reader = await readEvents(t, url);
  clock.pass(LEASE + 1);
  registry.sweep();
  await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm({ name: 'two' }) });
  await reader.seen('revived');
  assert.deepEqual(
    reader.told.map(({ id, event }) => `${event.type} ${store.changeOf(id ?? '')}`),
    ['synced 1', 'stale 1', 'updated 2', 'revived 2'],
  );
});

for (const [what, beat] of [
  ['a heartbeat', (url: string) => call(url, 'POST', '/registry/vms/vm-1/heartbeat')],
  ['a change', (url: string) => call(url, 'PATCH', '/registry/vms/vm-1', { body: { status: 'running' } })],
] as const) {
  test(`stale is sent even if ${what} revives the VM before the next sweep`, async (t) => {
    const { url, clock } = await serveApp(t);
    await call(url, 'POST', '/registry/vms', { body: aVm() });
    const reader = await readEvents(t, url);
    clock.pass(LEASE + 1);
    await beat(url);
    await reader.seen('revived');
    assert.deepEqual(
      reader.lines().filter((line) => /stale|revived/.test(line)),
      ['stale vm-1', 'revived vm-1'],
    );
  });
}

test('a change that the store refuses is not sent, and the next change gets its revision', async (t) => {
  const { url, store } = await serveApp(t);
  const reader = await readEvents(t, url);
  store.failure = new Error('no');
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm() })).status, 500);
  store.failure = undefined;
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) });
  await reader.seen('registered');
  assert.deepEqual(
    reader.told.map(({ id, event }) => `${event.type} ${store.changeOf(id ?? '')}`),
    ['synced 0', 'registered 1'],
  );
});

for (const way of ['Last-Event-ID', 'since'] as const) {
  test(`${way} resumes the stream after a position, including liveness events`, async (t) => {
    const { url, clock, registry, store } = await serveApp(t);
    for (const id of ['a', 'b', 'c']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
    clock.pass(LEASE + 1);
    registry.sweep();
    await call(url, 'DELETE', '/registry/vms/b');
    const from = (position: string) =>
      way === 'since'
        ? readEvents(t, url, `/registry/events?since=${position}`)
        : readEvents(t, url, '/registry/events?since=1', { 'last-event-id': position });
    for (const [revision, expected] of [
      [4, []],
      [3, ['stale a', 'stale b', 'stale c', 'deregistered b']],
      [2, ['registered c', 'stale a', 'stale b', 'stale c', 'deregistered b']],
    ] as const) {
      const reader = await from(store.positionAt(revision));
      await reader.seen('synced');
      assert.deepEqual(reader.lines(), [...expected, 'synced']);
      assert.equal(reader.told.at(-1)?.id, store.positionAt(4));
    }
  });
}

test('a bare revision, a position of another history and start get reset, the full state with the oldest VM first, then synced', async (t) => {
  const { url, store } = await serveApp(t, { keptEvents: 2 });
  for (const id of ['a', 'b', 'c', 'd']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'new' } });
  const foreign = [
    `${store.revisionAt(2)}-0123456789abcdef`,
    `${store.revisionAt(3)}-${tagOf(store.positionAt(2))}`,
    `${store.revisionAt(5) + 1}-${tagOf(store.positionAt(5))}`,
  ];
  for (const since of ['0', '4', '6', '999999999999999', 'start', ...foreign]) {
    const reader = await readEvents(t, url, `/registry/events?since=${since}`);
    await reader.seen('synced');
    assert.deepEqual(
      reader.told.map(({ id, event }) => [event.type, id]),
      [
        ['reset', undefined],
        ...Array.from({ length: 4 }, () => ['registered', undefined]),
        // Only the last event has an id, because a client cannot resume inside the state.
        ['synced', store.positionAt(5)],
      ],
      since,
    );
    const first = reader.told[1]?.event as VmEvent;
    assert.deepEqual(
      [first.vm.id, first.vm.name, first.revision, first.at],
      ['a', 'new', store.revisionAt(5), first.vm.registeredAt],
    );
  }
  const kept = await readEvents(t, url, `/registry/events?since=${store.positionAt(3)}`);
  await kept.seen('synced');
  assert.deepEqual(kept.lines(), ['registered d', 'updated a', 'synced']);
});

/** Registers a and b, removes x, and changes b; then a and c fall silent, and d is registered. */
async function changedFleet(t: TestContext) {
  const app = await serveApp(t, { keptEvents: 1 });
  const { url, registry, store, clock } = app;
  for (const id of ['x', 'a', 'b', 'c']) await registry.register(aVm({ id, metadata: { of: id } }));
  const from = store.positionAt(4);
  clock.pass(LEASE + 1);
  await call(url, 'PATCH', '/registry/vms/b', { body: { name: 'two' } });
  await call(url, 'DELETE', '/registry/vms/x');
  await registry.register(aVm({ id: 'e' }));
  await registry.deregister('e');
  await registry.heartbeat('b');
  await registry.register(aVm({ id: 'd' }));
  await registry.update('d', { name: 'd' });
  return { ...app, from };
}

/** From the changes of {@link changedFleet}: one event per changed VM, then every stale VM. */
const CAUGHT_UP = ['updated b', 'deregistered x', 'deregistered e', 'registered d', 'stale a', 'stale c', 'synced'];

test('a position that the event log does not reach back to gets one event per changed VM, then every stale VM', async (t) => {
  const { url, registry, store, from } = await changedFleet(t);
  const reader = await readEvents(t, url, `/registry/events?since=${from}`);
  await reader.seen('synced');
  assert.deepEqual(reader.lines(), CAUGHT_UP);
  assert.deepEqual(
    reader.told.map(({ id }) => id),
    [...CAUGHT_UP.slice(1).map(() => undefined), store.positionAt(store.changes)],
    'only the last event has an id, because a client cannot resume inside the state',
  );
  const [updated, removed, , registered] = reader.told.map(({ event }) => event as VmEvent);
  assert.deepEqual([updated?.vm, updated?.position], [JSON.parse(registry.get('b').json), store.positionAt(5)]);
  assert.deepEqual([registered?.vm.name, registered?.position], ['d', store.positionAt(10)]);
  const { metadata: _metadata, ...fields } = { ...aVm({ id: 'x' }), registeredAt: removed?.vm.registeredAt };
  assert.deepEqual({ ...removed?.vm, lastSeen: undefined }, { ...fields, lastSeen: undefined });
  assert.deepEqual([removed?.by, removed?.position], ['anonymous', store.positionAt(6)]);
  await registry.register(aVm({ id: 'new' }));
  await reader.seen('registered', 2);
  assert.equal(reader.told.at(-1)?.id, store.positionAt(11), 'then it follows');
});

test('after a restart a subscriber gets from the journal what it missed, and an unchanged registry sends stale VMs only', async (t) => {
  const { store, clock, from, registry } = await changedFleet(t);
  await registry.saveHeartbeats();
  const { url } = await serveApp(t, { store, clock });
  const [behind, current] = [
    await readEvents(t, url, '/registry/events', { 'last-event-id': from }),
    await readEvents(t, url, '/registry/events', { 'last-event-id': store.positionAt(10) }),
  ];
  await behind.seen('synced');
  await current.seen('synced');
  assert.deepEqual(behind.lines(), CAUGHT_UP);
  assert.deepEqual(current.lines(), ['stale a', 'stale c', 'synced']);
});

test('a filtered or restricted stream that the event log does not reach back to gets reset', async (t) => {
  const { url, authenticator, from } = await changedFleet(t);
  const { token: reader } = await authenticator.tokens.create({ name: 'r', scope: 'read', role: 'worker' }, 'test');
  const { token: admin } = await authenticator.tokens.create({ name: 'a', scope: 'admin' }, 'test');
  for (const [query, token] of [
    ['', reader],
    ['&role=worker', admin],
    ['&status=running', admin],
    ['&id=b', admin],
  ] as const) {
    const stream = await readEvents(t, url, `/registry/events?since=${from}${query}`, {
      authorization: `Bearer ${token}`,
    });
    await stream.seen('synced');
    assert.equal(stream.lines()[0], 'reset', query);
  }
});

test('a position whose liveness events are no longer retained gets every stale VM', async (t) => {
  const { url, clock, registry, store } = await serveApp(t, { keptEvents: 2 });
  for (const id of ['a', 'b', 'c']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  clock.pass(LEASE + 1);
  registry.sweep();
  const reader = await readEvents(t, url, `/registry/events?since=${store.positionAt(3)}`);
  await reader.seen('synced');
  assert.deepEqual(reader.lines(), ['stale a', 'stale b', 'stale c', 'synced']);
});

test('a change during the read of the journal is sent once, after it', async (t) => {
  const { url, registry, store, from } = await changedFleet(t);
  const read = store.lastChanges.bind(store);
  store.lastChanges = async (after, until) => {
    await registry.update('a', { name: 'during' });
    return read(after, until);
  };
  const reader = await readEvents(t, url, `/registry/events?since=${from}`);
  await reader.seen('updated', 2);
  assert.deepEqual(reader.lines(), [...CAUGHT_UP, 'updated a']);
});

test('a subscriber gets reset if the journal no longer reaches back, and an error if it cannot be read', async (t) => {
  const { url, store, from, registry } = await changedFleet(t);
  store.lastChanges = async () => undefined;
  const reader = await readEvents(t, url, `/registry/events?since=${from}`);
  await reader.seen('synced');
  assert.equal(reader.lines()[0], 'reset');
  reader.drop();
  store.lastChanges = async () => {
    throw new VregError('STORE_FAILED', 'the disk is broken');
  };
  assert.equal((await call(url, 'GET', `/registry/events?since=${from}`)).status, 503);
  await until('no subscription', () => registry.events.subscriberCount === 0);
});

test('the full state includes which VMs are stale', async (t) => {
  const { url, clock } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'silent' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'paused', status: 'paused' }) });
  clock.pass(LEASE + 1);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'fresh' }) });
  const reader = await readEvents(t, url, '/registry/events?since=start');
  await reader.seen('synced');
  assert.deepEqual(reader.lines(), [
    'reset',
    'registered silent',
    'stale silent',
    'registered paused',
    'registered fresh',
    'synced',
  ]);
});

test('the full state sends the VMs of a mass loss as suspect for one more lease, and then as stale', async (t) => {
  const { url, clock, registry } = await serveApp(t, { massLoss: 0.5 });
  for (let n = 0; n < 10; n++) await registry.register(aVm({ id: `vm-${n}` }));
  for (const liveness of ['suspect', 'stale'] as const) {
    clock.pass(LEASE + 1);
    const reader = await readEvents(t, url, '/registry/events?since=0');
    await reader.seen('synced');
    const others = reader.told.map(({ event }) => event.type).filter((type) => type !== 'registered');
    assert.deepEqual(others, ['reset', ...Array.from({ length: 10 }, () => liveness), 'synced']);
  }
});

test('role, status and id filters work alone, combined, and with several values', async (t) => {
  const { url } = await serveApp(t);
  const readers = await Promise.all(
    [
      'role=infra',
      'role=infra,worker',
      'status=paused',
      'id=a,b',
      'id=a&status=stopped,paused',
      'role=&status=&id=',
    ].map((query) => readEvents(t, url, `/registry/events?${query}`)),
  );
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', role: 'infra' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'b' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'c', role: 'golden', status: 'paused' }) });
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'paused' } });
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'running' } });
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'stopped' } });
  await Promise.all([3, 3, 2, 3, 3, 3].map((times, n) => readers[n]!.seen('status', times)));
  assert.deepEqual(
    readers.map((reader) => reader.lines().slice(1).join(', ')),
    [
      'registered a, status a, status a, status a',
      'registered a, registered b, status a, status a, status a',
      'registered c, status a, status a',
      'registered a, registered b, status a, status a, status a',
      'status a, status a, status a',
      'registered a, registered b, registered c, status a, status a, status a',
    ],
  );
});

test('a change of role is sent to the subscribers of both roles', async (t) => {
  const { url } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  const [before, after, other] = await Promise.all(
    ['worker', 'infra', 'golden'].map((role) => readEvents(t, url, `/registry/events?role=${role}`)),
  );
  await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm({ role: 'infra' }) });
  await Promise.all([before!.seen('updated'), after!.seen('updated')]);
  assert.deepEqual((before!.told[1]!.event as VmEvent).changes, { role: ['worker', 'infra'] });
  assert.deepEqual(other!.lines(), ['synced']);
});

test('heartbeats are sent only to subscribers that ask for them, and are filtered like other events', async (t) => {
  const { url } = await serveApp(t);
  for (const id of ['a', 'b']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const [all, one, none] = await Promise.all(
    ['heartbeats=true', 'heartbeats=true&id=b', 'heartbeats=false'].map((query) =>
      readEvents(t, url, `/registry/events?${query}`),
    ),
  );
  for (const id of ['a', 'b']) await call(url, 'POST', `/registry/vms/${id}/heartbeat`);
  await Promise.all([all!.seen('heartbeat', 2), one!.seen('heartbeat')]);
  assert.deepEqual(all!.told[1], {
    id: undefined,
    event: { type: 'heartbeat', id: 'a', lastSeen: '2026-01-01T00:00:00.000Z' },
  });
  assert.deepEqual([one!.lines().length, none!.lines().length], [2, 1]);
  // Not read to its end, because a stream has none.
  const odd = await fetch(`${url}/registry/events?heartbeats=1`);
  await odd.body?.cancel();
  assert.equal(odd.status, 400);
});

test('a comment is sent regularly while nothing happens', async (t) => {
  const { url } = await serveApp(t, { streams: { keepAlive: 20 } });
  const reader = await readEvents(t, url);
  await until('three comments', () => reader.comments.length >= 3);
  assert.deepEqual([...new Set(reader.comments)], ['alive']);
  assert.deepEqual(reader.lines(), ['synced']);
});

test('a subscriber that does not read gets lagged and is disconnected, and no writer waits for it', async (t) => {
  // Comments continue while the stream ends; none may be written after its end.
  const { url, at, registry, logged } = await serveApp(t, {
    streams: { maxBacklog: 100_000, lagGrace: 300, keepAlive: 5 },
  });
  const stalled = await open(t, connect(at), '/registry/events');
  await once(stalled, 'data');
  stalled.pause();
  const fine = await readEvents(t, url, '/registry/events?id=none');
  await call(url, 'POST', '/registry/vms', { body: aVm({ metadata: LARGE }) });
  let written = 1;
  await until('the stalled subscriber to be evicted', async () => {
    const { status } = await call(url, 'PATCH', '/registry/vms/vm-1', { body: { name: `n${written++}` } });
    assert.equal(status, 200);
    return registry.events.subscriberCount < 2;
  });
  fine.drop();
  await until('all subscriptions to end', () => registry.events.subscriberCount === 0);
  stalled.destroy();
  assert.deepEqual(
    logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
    [],
  );
});

test('slow subscribers that together exhaust their budget are evicted, and others continue to receive events', async (t) => {
  const budgets = createBudgets({ subscribers: 1_500_000 });
  const streams = { maxBacklog: 100_000_000, lagGrace: 300 };
  const { url, at, registry } = await serveApp(t, { budgets, streams });
  const reader = await readEvents(t, url, '/registry/events?role=worker');
  // Different filters, so that the two share no buffers.
  for (const query of ['status=running', 'id=vm-1']) {
    const stalled = await open(t, connect(at), `/registry/events?${query}`);
    await once(stalled, 'data');
    stalled.pause();
  }
  await until('all subscriptions', () => registry.events.subscriberCount === 3);
  await call(url, 'POST', '/registry/vms', { body: aVm({ metadata: LARGE }) });
  let written = 0;
  const update = async () => {
    const { status } = await call(url, 'PATCH', '/registry/vms/vm-1', { body: { name: `n${written++}` } });
    assert.equal(status, 200);
    // The reader must not fall behind itself, however slow the machine is.
    await reader.seen('updated', written);
  };
  await until('the stalled subscribers to be evicted', async () => {
    await update();
    return registry.events.subscriberCount === 1;
  });
  await update();
  await until('the budget to be released', () => budgets.subscribers.used === 0);
});

test('a subscriber that fell behind receives lagged as its last event, and can resume where it was', async (t) => {
  const { url, at, registry, store } = await serveApp(t, { streams: { maxBacklog: 100_000, lagGrace: 60_000 } });
  await call(url, 'POST', '/registry/vms', { body: aVm({ metadata: LARGE }) });
  const slow = await open(t, connect(at), '/registry/events');
  let text = '';
  slow.setEncoding('utf8');
  text += (await once(slow, 'data')) as unknown as string;
  slow.pause();
  for (let i = 0; i < 16; i++) await call(url, 'PATCH', '/registry/vms/vm-1', { body: { name: `n${i}` } });
  slow.on('data', (chunk: string) => (text += chunk)).resume();
  await until('the last event', () => text.includes('event: lagged'));
  const ids = [...text.matchAll(/^id: (.+)$/gm)].map(([, id]) => id!);
  const received = ids.map((id) => store.changeOf(id));
  assert.deepEqual(
    received,
    received.map((_, i) => i + 1),
  );
  assert.ok(received.length < 17, 'no event was dropped');
  const rest = await readEvents(t, url, '/registry/events', { 'last-event-id': ids.at(-1)! });
  await rest.seen('synced');
  assert.equal(rest.lines().length, 17 - received.length + 1);
  slow.destroy();
  rest.drop();
  await until('all subscriptions to end', () => registry.events.subscriberCount === 0);
});

test('a full state that is larger than the backlog limit does not count as lag', async (t) => {
  const { url, at } = await serveApp(t, { streams: { maxBacklog: 100_000 } });
  for (let i = 0; i < 16; i++)
    await call(url, 'POST', '/registry/vms', { body: aVm({ id: `vm-${i}`, metadata: LARGE }) });
  for (const since of ['start', '1']) {
    const slow = await open(t, connect(at), `/registry/events?since=${since}`);
    let text = '';
    slow.setEncoding('utf8');
    text += (await once(slow, 'data')) as unknown as string;
    slow.pause();
    await call(url, 'POST', '/registry/vms', { body: aVm({ id: `after-${since}` }) });
    slow.on('data', (chunk: string) => (text += chunk)).resume();
    await until('the event after the state', () => text.includes(`after-${since}`));
    assert.doesNotMatch(text, /event: lagged/);
    slow.destroy();
  }
});

test('a closed stream leaves no subscription, and a pipelined request behind a stream does not subscribe', async (t) => {
  const { url, at, registry } = await serveApp(t, { streams: { keepAlive: 5 } });
  const reader = await readEvents(t, url);
  const pipelined = await open(t, connect(at), '/registry/events', 4);
  await until('both subscriptions', () => registry.events.subscriberCount === 2);
  // This request would come after the other three on their connection, if they had begun.
  await reader.seen('synced');
  assert.equal(registry.events.subscriberCount, 2);
  reader.drop();
  pipelined.destroy();
  await until('no subscription', () => registry.events.subscriberCount === 0);
  assert.equal((await call(url, 'GET', '/health')).status, 200);
});

test('HEAD returns the headers of a stream and ends', async (t) => {
  const { url, registry } = await serveApp(t);
  const { status, headers } = await call(url, 'HEAD', '/registry/events');
  assert.deepEqual([status, headers.get('content-type')], [200, 'text/event-stream; charset=utf-8']);
  assert.equal(registry.events.subscriberCount, 0);
});

test('a malformed position gets reset and the full state, and a repeated filter is 400', async (t) => {
  const { url, registry } = await serveApp(t);
  for (const since of ['-1', '1.5', 'now', '1e3', '0x1', '9'.repeat(16), ' 1', '0', `0-${'0'.repeat(15)}`, '0-G']) {
    const path = `/registry/events?since=${encodeURIComponent(since)}`;
    for (const reader of [
      await readEvents(t, url, path),
      await readEvents(t, url, '/registry/events', { 'last-event-id': since }),
    ]) {
      await reader.seen('synced');
      assert.deepEqual(reader.lines(), ['reset', 'synced'], since);
      reader.drop();
    }
  }
  assert.equal((await call(url, 'GET', '/registry/events?role=a&role=b')).status, 400);
  await until('no subscription', () => registry.events.subscriberCount === 0);
});

test('with authentication a stream needs a token, and events name the token that made the change', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  assert.equal((await call(url, 'GET', '/registry/events')).status, 401);
  const headers = { authorization: 'Bearer s3cret' };
  const reader = await readEvents(t, url, '/registry/events', headers);
  await call(url, 'POST', '/registry/vms', { body: aVm(), headers });
  await reader.seen('registered');
  assert.equal((reader.told[1]!.event as VmEvent).by, 'VERS_AUTH_TOKEN');
  assert.doesNotMatch(JSON.stringify(reader.told), /s3cret/);
});

/** A stream whose client reads nothing yet, and the daemon's side of its connection. */
async function startedStream(t: TestContext, keptEvents: number) {
  const app = await serveApp(t, { keptEvents });
  // More than the kernel buffers for a client that does not read.
  const metadata = { pad: 'x'.repeat(1_000_000) };
  for (let n = 0; n < 24; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  const accepted = once(app.server, 'connection') as Promise<[Socket]>;
  const asked = get(`${app.url}/registry/events?since=start`, { agent: false });
  t.after(() => asked.destroy());
  asked.on('error', () => {});
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  const [served] = await accepted;
  await until('the socket buffers to be full', () => served.writableLength > 0);
  let text = '';
  const received = () => [...text.matchAll(/^event: (\w+)$/gm)].map(([, type]) => type!);
  const readTo = (last: string) =>
    new Promise<void>((resolve) => {
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        if (chunk.endsWith('\n\n') && received().includes(last)) resolve();
      });
    });
  return { ...app, served, readTo, received };
}

test('the full state is encoded as a slow client reads it, and later changes follow it', async (t) => {
  const { served, registry, readTo, received } = await startedStream(t, 100);
  // One or two entries of 24 are written; the others are not encoded yet.
  assert.ok(served.writableLength < 4_000_000, `${served.writableLength} bytes wait`);
  await registry.update('vm-0', { name: 'changed' });
  await registry.deregister('vm-1');
  await readTo('deregistered');
  assert.deepEqual(received(), ['reset', ...Array(24).fill('registered'), 'synced', 'updated', 'deregistered']);
});

test('a client that reads the state so slowly that later changes are no longer retained gets lagged', async (t) => {
  const { registry, readTo, received } = await startedStream(t, 2);
  for (const name of ['a', 'b', 'c']) await registry.update('vm-0', { name });
  await readTo('lagged');
  assert.deepEqual(received(), ['reset', ...Array(24).fill('registered'), 'synced', 'lagged']);
});
