/** The full state of the event stream: subscribers share its chunks, and the cache is small and short-lived. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type StateChunk, StateChunks, UNREAD_TIME } from '../../../../daemon/http/handlers/state-chunks.ts';
import { createBudgets } from '../../../../daemon/limits/budgets.ts';
import { VmRecord } from '../../../../daemon/registry/vm-record.ts';
import { MAX_LAG } from '../../../../daemon/registry/vm-snapshot.ts';
import { serveApp } from '../../../helpers/app.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { aVm } from '../../../helpers/vm.ts';

/** A fleet whose full state fills several chunks. */
const VMS = 300;
const METADATA = { pad: 'x'.repeat(1000) };

/** Counts how often the JSON of an entry is formatted. */
function countFormattings(t: TestContext): () => number {
  const { get } = Object.getOwnPropertyDescriptor(VmRecord.prototype, 'json')!;
  const { mock } = t.mock.getter(VmRecord.prototype, 'json', get);
  return () => mock.callCount();
}

async function serveFleet(t: TestContext) {
  const app = await serveApp(t);
  const ids = Array.from({ length: VMS }, (_, n) => `vm-${n}`);
  const role = (n: number) => (n % 2 === 0 ? 'worker' : 'golden');
  for (const [n, id] of ids.entries()) await app.registry.register(aVm({ id, role: role(n), metadata: METADATA }));
  const lines = ['reset', ...ids.map((id) => `registered ${id}`), 'synced'];
  return { ...app, lines };
}

test('the full state for 100 subscribers is formatted once, and each receives all of it', async (t) => {
  const { url, lines } = await serveFleet(t);
  const formattings = countFormattings(t);
  const readers = await Promise.all(
    Array.from({ length: 100 }, () => readEvents(t, url, '/registry/events?since=start')),
  );
  await Promise.all(readers.map((reader) => reader.seen('synced')));
  for (const reader of readers) assert.deepEqual(reader.lines(), lines);
  assert.equal(formattings(), VMS);
});

test('subscribers with another filter, or after a change, receive a state of their own', async (t) => {
  const { url, lines, registry } = await serveFleet(t);
  const read = async (query = '') => {
    const reader = await readEvents(t, url, `/registry/events?since=start${query}`);
    await reader.seen('synced');
    return reader.lines();
  };
  assert.deepEqual(await read(), lines);
  const isWorker = (_: string, n: number) => n === 0 || n === VMS + 1 || n % 2 === 1;
  assert.deepEqual(await read('&role=worker'), lines.filter(isWorker));
  await registry.deregister('vm-0');
  assert.deepEqual(
    await read(),
    lines.filter((line) => line !== 'registered vm-0'),
  );
});

test('a subscriber receives a heartbeat in the full state a second later, and immediately if the state has one VM', async (t) => {
  const { url, clock, registry } = await serveFleet(t);
  const lastSeen = async (query: string) => {
    const reader = await readEvents(t, url, `/registry/events?since=start${query}`);
    await reader.seen('synced');
    const found = reader.told.find(({ event }) => 'vm' in event && event.vm.id === 'vm-0');
    return (found!.event as unknown as { vm: { lastSeen: string } }).vm.lastSeen;
  };
  const before = await lastSeen('');
  assert.equal(await lastSeen('&id=vm-0'), before);
  clock.pass(MAX_LAG - 1);
  const after = registry.heartbeat('vm-0').lastSeen;
  assert.notEqual(after, before);
  assert.equal(await lastSeen('&id=vm-0'), after);
  clock.pass(1);
  assert.equal(await lastSeen(''), after);
});

test('only the newest chunks are cached, and the budget of responses counts them until the cache is emptied', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { responses } = createBudgets();
  const chunks = new StateChunks(responses);
  const snapshot = {};
  const size = 1000;
  let formatted = 0;
  const get = (start: number, isShareable = true): StateChunk =>
    chunks.get({ snapshot, filterKey: '', start }, 0, () => {
      formatted++;
      return { bytes: Buffer.alloc(size), next: start + 1, isShareable };
    });
  for (let start = 0; start < 100; start++) get(start);
  assert.equal(get(99), get(99));
  assert.equal(formatted, 100);
  const cached = responses.used / size;
  assert.ok(cached > 1 && cached < 100, `${cached} chunks are cached`);
  get(0);
  assert.equal(formatted, 101);
  assert.equal(responses.used / size, cached);
  get(200, false);
  get(200, false);
  assert.equal(formatted, 103);
  t.mock.timers.tick(UNREAD_TIME);
  assert.equal(responses.used, 0);
});

test('cached chunks do not keep the snapshots in memory from which they were formatted', async () => {
  setFlagsFromString('--expose-gc');
  const collectGarbage = runInNewContext('gc') as () => void;
  const chunks = new StateChunks(createBudgets().responses);
  const format = () => ({ bytes: Buffer.alloc(10), next: undefined, isShareable: true });
  const snapshots = Array.from({ length: 20 }, () => {
    const snapshot = { entries: [] };
    chunks.get({ snapshot, filterKey: '', start: 0 }, 0, format);
    return new WeakRef(snapshot);
  });
  // A weak reference keeps its object until the end of the turn.
  await setImmediate();
  collectGarbage();
  assert.equal(snapshots.filter((snapshot) => snapshot.deref()).length, 0);
});
