/** Histories are read page by page, one page at a time, and only for clients that still wait. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import type { JournalItem } from '../../../../daemon/store/store.ts';
import type { History } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { vreg } from '../../../helpers/cli.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

/** A store whose history reads block until they are released. */
class SlowStore extends MemoryStore {
  reads = 0;
  release = () => {};
  readonly #gate = new Promise<void>((resolve) => (this.release = resolve));

  override async history(id: string, limit: number, before?: number): Promise<JournalItem[]> {
    this.reads++;
    await this.#gate;
    return super.history(id, limit, before);
  }
}

test('50 history reads may wait, and those of clients that have left are not read', async (t) => {
  const store = new SlowStore();
  const { at, url, registry, server } = await serveApp(t, { store });
  await registry.register(aVm());
  const sockets = Array.from({ length: 50 }, () => connect(at));
  let requests = 0;
  server.on('request', () => requests++);
  for (const socket of sockets) socket.write('GET /registry/vms/vm-1/history HTTP/1.1\r\nHost: a\r\n\r\n');
  await until('all requests to arrive', () => requests === 50);
  const refused = await call(url, 'GET', '/registry/vms/vm-1/history');
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [429, '1']);
  assert.match(errorOf(refused), /^too many history reads \(limit 50\)$/);
  for (const socket of sockets) socket.destroy();
  const connections = () => new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count)));
  // The connection of the refused request stays open.
  await until('the clients to disconnect', async () => (await connections()) <= 1);
  store.release();
  await until('a free place', async () => (await call(url, 'GET', '/registry/vms/vm-1/history')).status === 200);
  assert.equal(store.reads, 2);
});

test('a long history is read in pages and contains every change once, newest first', async (t) => {
  const { url, registry, store } = await serveApp(t);
  const limits: number[] = [];
  const history = store.history.bind(store);
  store.history = async (id, limit, before) => {
    limits.push(limit);
    return history(id, limit, before);
  };
  const ask = async (query = '') => (await call(url, 'GET', `/registry/vms/vm-1/history${query}`)).body as History;
  const changes = ({ history: items }: History) => items.map(({ revision }) => store.changeOf(revision!));
  const last = (count: number) => Array.from({ length: count }, (_, n) => store.changes - n);
  await registry.register(aVm());
  for (let n = 1; n < 250; n++) await registry.update('vm-1', { name: `name ${n}` });
  for (const limit of [1, 99, 100, 101, 200, 249, 250, 251, 10_000]) {
    const answer = await ask(`?limit=${limit}`);
    const count = Math.min(limit, 250);
    assert.deepEqual([answer.id, answer.count, changes(answer)], ['vm-1', count, last(count)], String(limit));
  }
  assert.equal((await ask()).count, 100);
  assert.ok(Math.max(...limits) <= 100, `${Math.max(...limits)} changes were read in one page`);
  // The history of a removed VM ends with its last page, not with "not found".
  await registry.deregister('vm-1');
  assert.equal((await ask('?limit=251')).count, 251);
  const headed = await call(url, 'HEAD', '/registry/vms/vm-1/history?limit=10000');
  assert.equal(headed.status, 200);
});

test('a change that was made in another store has neither a revision nor a position', async (t) => {
  const { url, registry, store } = await serveApp(t);
  await registry.register(aVm());
  const history = store.history.bind(store);
  const at = '2026-01-01T00:00:00.000Z';
  /** Newest first; more than a page. */
  const moved = Array.from({ length: 150 }, (_, n): JournalItem => {
    return { revision: -1 - n, type: 'updated', at, by: 'ops', changes: { name: [`${n + 1}`, `${n}`] } };
  });
  store.history = async (id, limit, before = Number.MAX_SAFE_INTEGER) =>
    [...(await history(id, limit, before)), ...moved.filter(({ revision }) => revision < before)].slice(0, limit);
  const { history: items } = (await call(url, 'GET', '/registry/vms/vm-1/history?limit=1000')).body as History;
  assert.equal(items[0]!.position, store.positionAt(1));
  assert.deepEqual(
    items.slice(1),
    moved.map(({ revision: _, ...item }) => item),
  );
  const result = await vreg(['history', 'vm-1', '--limit', '2', '-q'], { url });
  assert.equal(result.stdout, `${store.positionAt(1)}\nnone\n`);
});
