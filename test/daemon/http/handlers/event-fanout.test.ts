/** What many readers of the event stream are told at once: all of it, in order, in few pieces, made once for all of them. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type Listener, Telling } from '../../../../daemon/http/handlers/event-fanout.ts';
import { Pieces } from '../../../../daemon/http/scheduler.ts';
import { EventLog } from '../../../../daemon/registry/events.ts';
import { VmRecord } from '../../../../daemon/registry/vm-record.ts';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call } from '../../../helpers/http.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;

test('a batch of heartbeats is written to a reader in few pieces, whole and in order', async (t) => {
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
  await until('the last beat', () => beats().length >= ids.length);
  assert.deepEqual(beats(), ids);
  const written = text.slice(from).match(pieces)!.length;
  // Each turn of the batch makes one at least, and a slow machine takes more turns.
  assert.ok(written < 1000, `${written} pieces`);
});

test('many that go stale together are told to a reader who reads, though all of it is more than may wait', async (t) => {
  const { url, clock, registry } = await serveApp(t, { streams: { maxWaiting: 200_000 } });
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

test('who is not let in any more is told first what came before that', async (t) => {
  const { url, authenticator, clock, registry } = await serveApp(t, { token: 's3cret' });
  await registry.register(aVm());
  const { token } = await authenticator.tokens.create({ name: 'reader', scope: 'read' }, 'root');
  const reader = await readEvents(t, url, '/registry/events', { authorization: `Bearer ${token}` });
  await reader.seen('synced');
  clock.pass(LEASE + 1);
  registry.sweep();
  await authenticator.tokens.revoke('reader');
  await reader.ended;
  assert.deepEqual(reader.lines(), ['synced', 'stale vm-1']);
});

/** Listens to everything, or to one role. */
function aListener(question = 'all', role?: string) {
  const taken: Buffer[] = [];
  let lags = 0;
  const listener: Listener = {
    question,
    wantsBeats: true,
    wants: (about) => role === undefined || about.role === role,
    take: (bytes) => taken.push(bytes) > 0,
    lagged: () => lags++,
  };
  const heard = () =>
    [
      ...Buffer.concat(taken)
        .toString()
        .matchAll(/^data: (.*)$/gm),
    ].map(([, json]) => JSON.parse(json!));
  return { listener, taken, heard, lags: () => lags };
}

function anEntry(id: string, metadata: Record<string, unknown> = {}, role: 'worker' | 'infra' = 'worker'): VmRecord {
  const vm = { ...aVm({ id, role, metadata }), registeredAt: '2026-01-01T00:00:00.000Z' };
  return new VmRecord(vm, { created: 1, revision: 1 }, { lastSeen: 0, heardAt: 0 });
}

test('those who ask the same are given the same bytes, and each only what came after it', async () => {
  const events = new EventLog(0);
  const telling = new Telling(events, new Pieces());
  const [a, b, infra, late] = [aListener(), aListener(), aListener('infra', 'infra'), aListener()];
  for (const { listener } of [a, b, infra]) telling.join(listener);
  assert.equal(events.subscriberCount, 3);
  events.add('registered', anEntry('vm-1'), { revision: 1, at: 0 });
  events.heartbeat(anEntry('vm-1'));
  events.add('registered', anEntry('vm-2', {}, 'infra'), { revision: 2, at: 0 });
  const place = telling.join(late.listener);
  events.add('registered', anEntry('vm-3'), { revision: 3, at: 0 });
  assert.deepEqual([a.taken.length, late.taken.length], [0, 0]);
  await setImmediate();
  await setImmediate();
  const ids = (told: VmEvent[]) => told.map(({ vm, id }: VmEvent & { id?: string }) => vm?.id ?? `beat of ${id}`);
  assert.deepEqual(ids(a.heard()), ['vm-1', 'beat of vm-1', 'vm-2', 'vm-3']);
  assert.deepEqual([a.taken.length, b.taken.length], [1, 1]);
  assert.equal(a.taken[0], b.taken[0]);
  assert.deepEqual([ids(infra.heard()), ids(late.heard())], [['vm-2'], ['vm-3']]);
  place.leave();
  place.leave();
  assert.equal(events.subscriberCount, 3);
  events.heartbeat(anEntry('vm-4'));
  await setImmediate();
  await setImmediate();
  assert.deepEqual([a.heard().length, late.heard().length], [5, 1]);
});

test('more than is kept for the readers of a turn lets them start again, and who joins then is told what comes', async () => {
  const events = new EventLog(0);
  const telling = new Telling(events, new Pieces());
  const [behind, fresh] = [aListener(), aListener()];
  telling.join(behind.listener);
  const large = anEntry('vm-1', { blob: 'x'.repeat(1_000_000) });
  for (let revision = 1; revision <= 40; revision++) events.add('updated', large, { revision, at: 0 });
  assert.deepEqual([behind.lags(), events.subscriberCount], [1, 0]);
  telling.join(fresh.listener);
  events.add('updated', anEntry('vm-2'), { revision: 41, at: 0 });
  await setImmediate();
  await setImmediate();
  assert.deepEqual([fresh.heard().length, behind.heard().length, behind.lags(), fresh.lags()], [1, 0, 1, 0]);
});
