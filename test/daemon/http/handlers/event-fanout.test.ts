/** The event fan-out: everything is delivered in order, in few buffers that subscribers with the same filter share. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { EventFanout, type Subscriber } from '../../../../daemon/http/handlers/event-fanout.ts';
import { createBudgets } from '../../../../daemon/limits/budgets.ts';
import { Scheduler } from '../../../../daemon/limits/scheduler.ts';
import { EventLog } from '../../../../daemon/registry/events.ts';
import { VmRecord } from '../../../../daemon/registry/vm-record.ts';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call } from '../../../helpers/http.ts';
import { occasionAt, tagAt } from '../../../helpers/store.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;

test('a batch of heartbeats reaches a subscriber complete, in order and in few writes', async (t) => {
  const { at, url, registry } = await serveApp(t);
  const ids = Array.from({ length: 3000 }, (_, n) => `vm-${n}`);
  for (const id of ids) await registry.register(aVm({ id }));
  const reader = connect(at);
  t.after(() => reader.destroy());
  let text = '';
  reader.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  reader.write('GET /registry/events?heartbeats=true HTTP/1.1\r\nHost: a\r\n\r\n');
  await until('the stream to be open', () => text.includes('event: synced'));
  const from = text.length;
  assert.equal((await call(url, 'POST', '/registry/heartbeats', { body: { ids } })).status, 200);
  const pieces = /(?:^|\r\n)[0-9a-f]+\r\n/g;
  const beats = () =>
    [
      ...text
        .slice(from)
        .replace(pieces, '')
        .matchAll(/"id":"(vm-\d+)"/g),
    ].map(([, id]) => id);
  await until('the last heartbeat', () => beats().length >= ids.length);
  assert.deepEqual(beats(), ids);
  const written = text.slice(from).match(pieces)!.length;
  // Each turn of the batch makes at least one write, and a slow machine needs more turns.
  assert.ok(written < 1000, `${written} writes`);
});

test('a burst of stale events that is larger than the backlog limit reaches a subscriber that reads', async (t) => {
  const { url, clock, registry } = await serveApp(t, { streams: { maxBacklog: 200_000 } });
  const metadata = { pad: 'x'.repeat(1000) };
  const ids = Array.from({ length: 1000 }, (_, n) => `vm-${n}`);
  for (const id of ids) await registry.register(aVm({ id, metadata }));
  const readers = await Promise.all([1, 2, 3].map(() => readEvents(t, url)));
  await Promise.all(readers.map((reader) => reader.seen('synced')));
  clock.pass(LEASE + 1);
  registry.sweep();
  await registry.deregister('vm-0');
  for (const reader of readers) {
    await until('the end', () => /^(deregistered|lagged)/.test(reader.lines().at(-1) ?? ''));
    assert.deepEqual(reader.lines().slice(1), [...ids.map((id) => `stale ${id}`), 'deregistered vm-0']);
  }
});

test('a revoked subscriber receives pending events before its stream closes', async (t) => {
  const { url, authenticator, clock, registry } = await serveApp(t, { token: 's3cret' });
  await registry.register(aVm());
  const { token } = await authenticator.tokens.create({ name: 'reader', scope: 'read' }, 'root');
  const reader = await readEvents(t, url, '/registry/events', { authorization: `Bearer ${token}` });
  await reader.seen('synced');
  clock.pass(LEASE + 1);
  registry.sweep();
  await authenticator.tokens.revoke('reader', 'test');
  await reader.ended;
  assert.deepEqual(reader.lines(), ['synced', 'stale vm-1']);
});

/** Subscribes to everything, or to one role, and never waits. */
function aSubscriber(
  filterKey = 'all',
  { role, wantsHeartbeats = true }: { role?: string; wantsHeartbeats?: boolean } = {},
) {
  const written: Buffer[] = [];
  let lags = 0;
  let backlog = 0;
  const subscriber: Subscriber = {
    filterKey,
    wantsHeartbeats,
    select: (event) => (role === undefined || event.role === role ? event : undefined),
    write: (bytes) => written.push(bytes) > 0,
    backlog: () => backlog,
    lagged: () => lags++,
  };
  const received = () =>
    [
      ...Buffer.concat(written)
        .toString()
        .matchAll(/^data: (.*)$/gm),
    ].map(([, json]) => JSON.parse(json!));
  return { subscriber, written, received, lags: () => lags, setBacklog: (bytes: number) => (backlog = bytes) };
}

function anEntry(id: string, metadata: Record<string, unknown> = {}, role: 'worker' | 'infra' = 'worker'): VmRecord {
  const vm = { ...aVm({ id, role, metadata }), registeredAt: '2026-01-01T00:00:00.000Z' };
  return new VmRecord(vm, { created: 1, revision: 1, tag: tagAt(1) }, { lastSeen: 0, heardAt: 0 });
}

/** Two turns: one in which the fan-out begins, and one in which it has delivered. */
async function delivered(): Promise<void> {
  await setImmediate();
  await setImmediate();
}

test('subscribers with the same filter share buffers, and each receives only the events after its subscription', async () => {
  const events = new EventLog(0);
  const fanout = new EventFanout(events, new Scheduler(), createBudgets());
  const [a, b, infra, late] = [aSubscriber(), aSubscriber(), aSubscriber('infra', { role: 'infra' }), aSubscriber()];
  for (const { subscriber } of [a, b, infra]) fanout.subscribe(subscriber);
  assert.equal(events.subscriberCount, 3);
  events.add('registered', anEntry('vm-1'), occasionAt(1));
  events.heartbeat(anEntry('vm-1'));
  events.add('registered', anEntry('vm-2', {}, 'infra'), occasionAt(2));
  const subscription = fanout.subscribe(late.subscriber);
  events.add('registered', anEntry('vm-3'), occasionAt(3));
  assert.deepEqual([a.written.length, late.written.length], [0, 0]);
  await delivered();
  const ids = (received: VmEvent[]) =>
    received.map(({ vm, id }: VmEvent & { id?: string }) => vm?.id ?? `heartbeat of ${id}`);
  assert.deepEqual(ids(a.received()), ['vm-1', 'heartbeat of vm-1', 'vm-2', 'vm-3']);
  assert.deepEqual([a.written.length, b.written.length], [1, 1]);
  assert.equal(a.written[0], b.written[0]);
  assert.deepEqual([ids(infra.received()), ids(late.received())], [['vm-2'], ['vm-3']]);
  subscription.unsubscribe();
  subscription.unsubscribe();
  assert.equal(events.subscriberCount, 3);
  events.heartbeat(anEntry('vm-4'));
  await delivered();
  assert.deepEqual([a.received().length, late.received().length], [5, 1]);
});

test('a heartbeat does nothing for subscribers that do not want heartbeats, and they receive all events', async () => {
  const events = new EventLog(0);
  const fanout = new EventFanout(events, new Scheduler(), createBudgets());
  const [wanting, other] = [aSubscriber(), aSubscriber('all', { wantsHeartbeats: false })];
  const used: PropertyKey[] = [];
  const get = (target: Subscriber, name: keyof Subscriber) => {
    used.push(name);
    return target[name];
  };
  fanout.subscribe(wanting.subscriber);
  fanout.subscribe(new Proxy(other.subscriber, { get } as ProxyHandler<Subscriber>));
  used.length = 0;
  for (let n = 0; n < 100; n++) events.heartbeat(anEntry(`vm-${n}`));
  await delivered();
  assert.deepEqual([wanting.received().length, used], [100, []]);
  events.add('registered', anEntry('vm-1'), occasionAt(1));
  events.heartbeat(anEntry('vm-1'));
  events.add('updated', anEntry('vm-1'), occasionAt(2));
  await delivered();
  const types = ({ received }: typeof other) => received().map(({ type = 'heartbeat' }: { type?: string }) => type);
  assert.deepEqual(types(wanting).slice(100), ['registered', 'heartbeat', 'updated']);
  assert.deepEqual(types(other), ['registered', 'updated']);
});

test('the queue limit counts an event once for subscribers with and without heartbeats', async () => {
  const events = new EventLog(0);
  const budgets = createBudgets({ fanout: 1_500_000 });
  const fanout = new EventFanout(events, new Scheduler(), budgets);
  const both = [aSubscriber(), aSubscriber('all', { wantsHeartbeats: false })];
  for (const { subscriber } of both) fanout.subscribe(subscriber);
  events.add('updated', anEntry('vm-1', { blob: 'x'.repeat(1_000_000) }), occasionAt(1));
  await delivered();
  assert.deepEqual(
    both.map(({ received, lags }) => [received().length, lags()]),
    [
      [1, 0],
      [1, 0],
    ],
  );
  assert.equal(budgets.fanout.used, 0);
});

test('too many queued heartbeats evict only subscribers that want heartbeats', async () => {
  const events = new EventLog(0);
  const fanout = new EventFanout(events, new Scheduler(), createBudgets({ fanout: 10_000 }));
  const [wanting, other] = [aSubscriber(), aSubscriber('all', { wantsHeartbeats: false })];
  for (const { subscriber } of [wanting, other]) fanout.subscribe(subscriber);
  events.add('registered', anEntry('vm-1'), occasionAt(1));
  for (let n = 0; n < 1000; n++) events.heartbeat(anEntry('vm-1'));
  await delivered();
  assert.deepEqual([wanting.lags(), other.lags(), other.received().length], [1, 0, 1]);
});

test('a full queue evicts the slowest subscribers, and one that subscribes afterwards receives new events', async () => {
  const events = new EventLog(0);
  const fanout = new EventFanout(events, new Scheduler(), createBudgets({ fanout: 33_554_432 }));
  const [behind, fresh] = [aSubscriber(), aSubscriber()];
  fanout.subscribe(behind.subscriber);
  const large = anEntry('vm-1', { blob: 'x'.repeat(1_000_000) });
  for (let revision = 1; revision <= 40; revision++) events.add('updated', large, occasionAt(revision));
  assert.deepEqual([behind.lags(), events.subscriberCount], [1, 0]);
  fanout.subscribe(fresh.subscriber);
  events.add('updated', anEntry('vm-2'), occasionAt(41));
  await delivered();
  assert.deepEqual([fresh.received().length, behind.received().length, behind.lags(), fresh.lags()], [1, 0, 1, 0]);
});

test('when slow subscribers fill their budget, those that have the most to read are evicted until the rest fits', async () => {
  const events = new EventLog(0);
  const budgets = createBudgets({ subscribers: 1000 });
  const fanout = new EventFanout(events, new Scheduler(), budgets);
  const all = [0, 500, 900].map((bytes) => {
    const each = aSubscriber();
    each.setBacklog(bytes);
    fanout.subscribe(each.subscriber);
    return each;
  });
  const unread = budgets.subscribers.reserveAnyway(1400);
  events.add('updated', anEntry('vm-1'), occasionAt(1));
  await delivered();
  assert.deepEqual(
    all.map(({ lags }) => lags()),
    [0, 0, 1],
  );
  unread.resize(500);
  events.add('updated', anEntry('vm-1'), occasionAt(2));
  await delivered();
  assert.deepEqual(
    all.map(({ received }) => received().length),
    [2, 2, 1],
  );
});
