/** Events for `vreg watch`: the daemon's stream across breaks, and the changes of a server without a stream. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type WatchOptions, watchEvents } from '../../src/client/event-source.ts';
import { RegistryClient } from '../../src/client.ts';
import type { Context } from '../../src/command.ts';
import type { VmList } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { StreamEvent } from '../../src/protocol/events.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { type Daemon, startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { isChange } from '../helpers/stream.ts';
import { json, stub } from '../helpers/stub.ts';
import { openUndici } from '../helpers/transports.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const LEASE = 300_000;

interface Watching {
  told: StreamEvent[];
  lines(): string[];
  notes: string[];
  /** Resolves to what ended it. */
  ended: Promise<unknown>;
  seen(type: StreamEvent['type'], times?: number): Promise<void>;
}

/** Watches until the test ends; pauses are cut to what a test can wait for. */
function watch(t: TestContext, url: string, options: WatchOptions = {}, token?: string): Watching {
  const aborted = new AbortController();
  const client = new RegistryClient({ url, openTransport: openUndici, token, signal: aborted.signal });
  const notes: string[] = [];
  const context: Pick<Context, 'client' | 'note' | 'verbose' | 'sleep' | 'now' | 'signal'> = {
    client: () => client,
    signal: aborted.signal,
    note: (text) => void notes.push(text),
    verbose: (text) => void notes.push(text),
    now: Date.now,
    sleep: async (ms) => {
      await new Promise((resolve) => setTimeout(resolve, Math.min(ms, 30)));
      aborted.signal.throwIfAborted();
    },
  };
  const told: StreamEvent[] = [];
  const ended = (async () => {
    try {
      for await (const event of watchEvents(context as Context, options)) told.push(event);
    } catch (error) {
      return error;
    }
  })();
  t.after(async () => {
    aborted.abort();
    client.close();
    await ended;
  });
  return {
    told,
    notes,
    ended,
    lines: () => told.map((event) => ('vm' in event ? `${event.type} ${event.vm.id}` : event.type)),
    seen: async (type, times = 1) => {
      await until(`${times} × ${type}`, () => told.filter((event) => event.type === type).length >= times);
    },
  };
}

test('a watch survives kill -9 and a new daemon on the same port: it gets every event, without a reset', async (t) => {
  const first = await startDaemon(t);
  const watching = watch(t, first.url, { since: 'start' });
  await watching.seen('synced');
  const register = (daemon: Daemon, id: string) =>
    call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id }) }).then(({ status }) => assert.equal(status, 201));
  for (const id of ['a', 'b']) await register(first, id);
  await watching.seen('registered', 2);
  await first.end('SIGKILL');
  await until('the break to be noticed', () => watching.notes.some((note) => note.endsWith('retrying')));
  const second = await startDaemon(t, { home: first.home, args: ['--port', new URL(first.url).port] });
  assert.equal(second.url, first.url);
  await register(second, 'c');
  await watching.seen('synced', 2);
  await register(second, 'd');
  await until('the last one', () => watching.lines().at(-1) === 'registered d');
  assert.deepEqual(
    watching.lines().filter((line) => line !== 'synced'),
    ['reset', 'registered a', 'registered b', 'registered c', 'registered d'],
  );
});

test('a watch that reconnects receives each change and each liveness event once', async (t) => {
  const { url, clock, registry, server } = await serveApp(t);
  const watching = watch(t, url);
  await watching.seen('synced');
  for (const id of ['a', 'b']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  clock.pass(LEASE + 1);
  registry.sweep();
  await watching.seen('stale', 2);
  for (let i = 1; i <= 2; i++) {
    server.closeAllConnections();
    await watching.seen('synced', i + 1);
  }
  // Away while both are heard, and one goes silent again.
  server.closeAllConnections();
  for (const id of ['a', 'b']) registry.heartbeat(id);
  clock.pass(LEASE + 1);
  registry.heartbeat('a');
  registry.sweep();
  await watching.seen('synced', 4);
  await call(url, 'DELETE', '/registry/vms/a');
  await watching.seen('deregistered');
  const revisions = watching.told.filter(isChange).map(({ revision }) => revision);
  assert.deepEqual(revisions, [1, 2, 3]);
  assert.deepEqual(
    watching.lines().filter((line) => /stale|revived/.test(line)),
    ['stale a', 'stale b', 'revived a', 'revived b', 'stale a', 'stale b', 'revived a'],
  );
});

test('a client that receives lagged resumes the stream without reporting it', async (t) => {
  let asked = 0;
  const lastIds: string[] = [];
  const url = await stub(t, (request, response) => {
    const headers = { 'x-vreg-version': '0.0.0' };
    if (request.url === '/health') return json(response, 200, { status: 'ok', uptime: 1 }, headers);
    lastIds.push(new URL(request.url!, 'http://a').searchParams.get('since') ?? '');
    response.writeHead(200, { ...headers, 'content-type': 'text/event-stream' });
    const event = (id: number) =>
      `id: ${id}\nevent: updated\ndata: ${JSON.stringify({ type: 'updated', revision: id, at: '', vm: aVm() })}\n\n`;
    if (asked++ === 0) response.end(`${event(1)}event: lagged\ndata: {"type":"lagged","revision":2}\n\n`);
    else response.write(event(2));
  });
  const watching = watch(t, url);
  await watching.seen('updated', 2);
  assert.deepEqual(
    [watching.lines(), lastIds],
    [
      ['updated vm-1', 'updated vm-1'],
      ['', '1'],
    ],
  );
});

test('a watch ends if its token becomes invalid or its first request fails', async (t) => {
  const first = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 'one' } });
  const watching = watch(t, first.url, {}, 'one');
  await watching.seen('synced');
  await first.end('SIGTERM');
  await startDaemon(t, {
    home: first.home,
    args: ['--port', new URL(first.url).port],
    env: { VERS_AUTH_TOKEN: 'two' },
  });
  const error = await watching.ended;
  assert.ok(error instanceof VregError);
  assert.equal(error.code, 'UNAUTHORIZED');
  const refused = await watch(t, 'http://127.0.0.1:1').ended;
  assert.equal((refused as VregError).code, 'UNREACHABLE');
});

test('filters are applied by the daemon, and heartbeats are sent only on request', async (t) => {
  const { url } = await serveApp(t);
  const watching = watch(t, url, { role: 'infra', status: 'running', heartbeats: true });
  await watching.seen('synced');
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'other' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ role: 'infra' }) });
  await call(url, 'POST', '/registry/vms/other/heartbeat');
  await call(url, 'POST', '/registry/vms/vm-1/heartbeat');
  await call(url, 'PATCH', '/registry/vms/vm-1', { body: { status: 'paused' } });
  await watching.seen('status');
  assert.deepEqual(watching.lines(), ['synced', 'registered vm-1', 'heartbeat', 'status vm-1']);
});

/** The original registry: lists, and nothing else; `down` makes it answer with 503. */
async function plain(t: TestContext) {
  const state = { vms: [] as Vm[], down: false, lists: 0, now: Date.parse('2026-01-01T12:00:00.000Z') };
  const url = await stub(t, (request, response) => {
    const date = { date: new Date(state.now).toUTCString() };
    if (state.down) return json(response, 503, { error: 'down' });
    if (request.url === '/health') return json(response, 200, { status: 'ok', uptime: 1 }, date);
    state.lists++;
    json(response, 200, { vms: state.vms, count: state.vms.length } satisfies VmList, date);
  });
  const vm = (id: string, more: Partial<Vm> = {}): Vm => ({
    ...aVm({ id }),
    registeredAt: '2026-01-01T11:59:00.000Z',
    lastSeen: '2026-01-01T11:59:00.000Z',
    ...more,
  });
  /** Waits until the one who watches has looked at the registry as it is now, and told what it saw. */
  const looked = async () => {
    const before = state.lists;
    await until('two more looks', () => state.lists >= before + 2);
  };
  return { url, state, vm, looked };
}

test('without an event stream, a watch reports the differences between polls', async (t) => {
  const { url, state, vm, looked } = await plain(t);
  state.vms = [vm('b'), vm('a')];
  const watching = watch(t, url, { since: 'start' });
  await looked();
  assert.match(watching.notes.join(), /the registry has no event stream; listing every 2 s/);
  state.vms = [vm('c'), vm('b', { name: 'new' }), vm('a', { status: 'paused' })];
  await looked();
  state.vms = [vm('c', { lastSeen: '2026-01-01T11:50:00.000Z' }), vm('b', { name: 'new' })];
  await looked();
  state.vms = [vm('c'), vm('b', { name: 'new', lastSeen: '2026-01-01T12:00:00.000Z' })];
  await looked();
  assert.deepEqual(watching.lines(), [
    'registered a',
    'registered b',
    'synced',
    'status a',
    'updated b',
    'registered c',
    'stale c',
    'deregistered a',
    'revived c',
  ]);
});

test("without an event stream, filters work like the daemon's: a status change matches the old and the new status", async (t) => {
  for (const [options, expected] of [
    [{ status: 'running', role: 'worker', since: 'start' }, ['registered a', 'status a']],
    [{ status: 'paused' }, ['status a', 'deregistered a']],
  ] as const) {
    const { url, state, vm, looked } = await plain(t);
    state.vms = [vm('a'), vm('b', { role: 'infra' })];
    const watching = watch(t, url, options);
    await looked();
    state.vms = [vm('a', { status: 'paused' }), vm('b', { role: 'infra' })];
    await looked();
    state.vms = [vm('b', { role: 'infra' })];
    await looked();
    const lines = watching.lines().filter((line) => line !== 'synced');
    assert.deepEqual(lines, expected);
  }
});

test('without an event stream, an outage neither ends the watch nor reports a VM as removed', async (t) => {
  const { url, state, vm, looked } = await plain(t);
  state.vms = [vm('a')];
  const watching = watch(t, url);
  await looked();
  state.down = true;
  await until('a look in vain', () => watching.notes.some((note) => note.endsWith('retrying')));
  state.vms = [vm('b'), vm('a')];
  state.down = false;
  await looked();
  assert.deepEqual(watching.lines(), ['synced', 'registered b']);
});
