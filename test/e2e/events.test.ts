/** The stream of events of the real daemon: under load, across breaks, and on the way down. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import test from 'node:test';
import type { StreamEvent } from '../../src/protocol/events.ts';
import { parsePosition } from '../../src/protocol/position.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { isChange, readEvents } from '../helpers/stream.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Least number of changes that the writers make; more than fit between two breaks, fewer than the daemon keeps. */
const CHANGES = 600;
/** Least number of connections while they write. */
const CONNECTIONS = 6;

/** Numbers from 0 up to 1, the same in each run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

test('a client that reconnects repeatedly under load receives every revision once, in order', async (t) => {
  const { url } = await startDaemon(t);
  await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
  let made = 1;
  let connections = 0;
  const writer = async (id: string) => {
    while (made < CHANGES || connections < CONNECTIONS) {
      const name = `n${made++}`;
      const { status } = await call(url, 'PUT', `/registry/vms/${id}`, { body: aVm({ id, name }) });
      assert.ok(status === 200 || status === 201);
    }
  };
  const writers = Promise.all(['a', 'b', 'c', 'd'].map(writer));
  let writing = true;
  void writers.finally(() => (writing = false));

  const random = numbers(20_260_103);
  const told: StreamEvent[] = [];
  let last = '0';
  for (let done = false; !done; ) {
    done = !writing;
    const reader = await readEvents(
      t,
      url,
      '/registry/events?since=start',
      connections ? { 'last-event-id': last } : {},
    );
    connections++;
    if (connections === 1) assert.equal(reader.headers['content-type'], 'text/event-stream; charset=utf-8');
    if (done) await reader.seen('synced');
    else {
      const enough = Math.floor(random() * 120);
      await until('some events, or the end', () => !writing || reader.told.length >= enough);
    }
    reader.drop();
    await reader.ended;
    for (const { id, event } of reader.told) {
      if (isChange(event) && id !== undefined) told.push(event);
      if (id !== undefined) last = id;
    }
  }
  await writers;
  const revisions = told.map((event) => ('revision' in event ? event.revision : -1));
  const first = revisions[0]!;
  assert.deepEqual(
    revisions,
    revisions.map((_, i) => first + i),
  );
  assert.equal(parsePosition(last)?.revision, revisions.at(-1));
  const probe = await readEvents(t, url);
  await probe.seen('synced');
  assert.equal(probe.told[0]?.id, last);
});

test('an id from before a kill -9 gets what it missed from the next daemon, and a foreign one gets reset', async (t) => {
  const first = await startDaemon(t);
  const empty = await readEvents(t, first.url);
  await empty.seen('synced');
  for (const id of ['a', 'b']) await call(first.url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const before = await readEvents(t, first.url, '/registry/events?since=start');
  await before.seen('synced');
  await first.end('SIGKILL');
  await before.ended;
  const second = await startDaemon(t, { home: first.home });
  const state = ['registered a', 'registered b', 'synced'];
  const resumed = async (id: string, lines: readonly string[]) => {
    const reader = await readEvents(t, second.url, '/registry/events', { 'last-event-id': id });
    await reader.seen('synced');
    assert.deepEqual(reader.lines(), lines, id);
    return reader.told.at(-1)!.id!;
  };
  const [start, last] = [empty.told[0]!.id!, (await call(second.url, 'GET', '/registry/vms/b')).headers.get('etag')!];
  assert.equal(await resumed(start, state), last.slice(1, -1));
  assert.equal(await resumed(last.slice(1, -1), ['synced']), last.slice(1, -1));
  for (const foreign of ['2', '2-0123456789abcdef', last.slice(1, -1).replace('2-', '3-')])
    await resumed(foreign, ['reset', ...state]);
  await call(second.url, 'DELETE', '/registry/vms/a');
  await resumed(start, ['registered b', 'deregistered a', 'synced']);
});

test('a silent VM causes a stale event, and its next heartbeat a revived event', async (t) => {
  const { url } = await startDaemon(t, { args: ['--stale-after', '600ms'] });
  const reader = await readEvents(t, url);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  await reader.seen('stale');
  await call(url, 'POST', '/registry/vms/vm-1/heartbeat');
  await reader.seen('revived');
  assert.deepEqual(reader.lines().slice(0, 4), ['synced', 'registered vm-1', 'stale vm-1', 'revived vm-1']);
});

test('SIGTERM ends open streams, long polls and clients that do not read, within seconds and with exit code 0', async (t) => {
  const { url, end } = await startDaemon(t);
  const reader = await readEvents(t, url);
  const held = call(url, 'GET', '/registry/discover/infra?wait=50s');
  const stalled = connect(Number(new URL(url).port), '127.0.0.1');
  stalled.on('error', () => {});
  stalled.write('GET /registry/events HTTP/1.1\r\nHost: a\r\n\r\n');
  await once(stalled, 'data');
  stalled.pause();
  // More than the kernel takes for who does not read.
  const metadata = { blob: 'x'.repeat(900_000) };
  for (let i = 0; i < 16; i++) await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm({ name: `n${i}`, metadata }) });
  await reader.seen('synced');
  const started = performance.now();
  assert.deepEqual(await end('SIGTERM'), { code: 0, signal: null });
  const took = performance.now() - started;
  assert.ok(took < 3000, `${took} ms`);
  await reader.ended;
  const { status, body } = await held;
  assert.deepEqual([status, body], [200, { vms: [], count: 0 }]);
  stalled.destroy();
});

test('the history of a VM survives a restart', async (t) => {
  const first = await startDaemon(t);
  await call(first.url, 'POST', '/registry/vms', { body: aVm() });
  await call(first.url, 'PATCH', '/registry/vms/vm-1', { body: { status: 'paused' } });
  await call(first.url, 'DELETE', '/registry/vms/vm-1');
  const { body } = await call(first.url, 'GET', '/registry/vms/vm-1/history');
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  assert.deepEqual((await call(second.url, 'GET', '/registry/vms/vm-1/history')).body, body);
  assert.equal((body as { count: number }).count, 3);
});
