/** Histories are read one after the other, and only for who still waits for them. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import type { HistoryItem } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

/** A store whose histories wait until they are let go. */
class SlowStore extends MemoryStore {
  reads = 0;
  letGo = () => {};
  readonly #gate = new Promise<void>((resolve) => (this.letGo = resolve));

  override async history(id: string, limit: number, before?: number): Promise<HistoryItem[]> {
    this.reads++;
    await this.#gate;
    return super.history(id, limit, before);
  }
}

test('of histories that are asked for at once 50 wait, and those of clients that have gone are not read', async (t) => {
  const store = new SlowStore();
  const { at, url, registry, server } = await serveApp(t, { store });
  await registry.register(aVm());
  const sockets = Array.from({ length: 50 }, () => connect(at));
  let asked = 0;
  server.on('request', () => asked++);
  for (const socket of sockets) socket.write('GET /registry/vms/vm-1/history HTTP/1.1\r\nHost: a\r\n\r\n');
  await until('all to be asked', () => asked === 50);
  const refused = await call(url, 'GET', '/registry/vms/vm-1/history');
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [429, '1']);
  assert.match(errorOf(refused), /^50 histories are asked for already$/);
  for (const socket of sockets) socket.destroy();
  const connections = () => new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count)));
  // That of the refused request is kept alive.
  await until('the clients to be gone', async () => (await connections()) <= 1);
  store.letGo();
  await until('room', async () => (await call(url, 'GET', '/registry/vms/vm-1/history')).status === 200);
  assert.equal(store.reads, 2);
});
