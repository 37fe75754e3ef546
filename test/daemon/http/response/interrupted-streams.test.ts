/** Streamed responses that fail, are read slowly or lose their client in the middle, and how they end for HTTP/1.0. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { askRaw, Connection } from '../../../helpers/connection.ts';
import { tempDir } from '../../../helpers/daemon.ts';
import { call } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const VMS = 16;
const PAD = 900_000;

/** An app whose list of VMs is larger than the socket buffers of the kernel. */
async function withLongList(t: TestContext): Promise<ServedApp> {
  const app = await serveApp(t);
  const metadata = { pad: 'x'.repeat(PAD) };
  for (let n = 0; n < VMS; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  return app;
}

/** Makes the JSON of one VM fail. */
function breakEntry({ registry }: ServedApp, id: string): void {
  const fail = () => {
    throw new Error('boom');
  };
  const entry = registry.get(id);
  Object.defineProperty(entry, 'json', { get: fail });
  entry.jsonWith = fail;
}

const request = (target: string, version = '1.1') => `GET ${target} HTTP/${version}\r\nHost: a\r\n\r\n`;
const TARGETS = ['/registry/vms', '/registry/vms?include=liveness'];

for (const target of TARGETS) {
  test(`an error in the middle of GET ${target} destroys the connection, and nothing is written into the response`, async (t) => {
    const app = await withLongList(t);
    // The list begins with the VM that was registered last.
    breakEntry(app, 'vm-5');
    const connection = Connection.open(t, app.at).send(request(target) + request('/health'));
    const bytes = (await connection.closed).toString('latin1');
    assert.match(bytes, /^HTTP\/1\.1 200 /);
    assert.match(bytes, /"id":"vm-6"/);
    assert.doesNotMatch(bytes, /"error"|"count"|\r\n0\r\n\r\n|"status":"ok"/);
    const [, length] = /content-length: (\d+)/i.exec(bytes) ?? [];
    if (length !== undefined) assert.ok(bytes.length < Number(length));
    assert.equal(bytes.match(/HTTP\/1\.1/g)?.length, 1);
    assert.equal((await call(app.url, 'GET', '/health')).status, 200);
  });

  test(`an error at the beginning of GET ${target} is a 500`, async (t) => {
    const app = await withLongList(t);
    breakEntry(app, `vm-${VMS - 1}`);
    const connection = Connection.open(t, app.at).send(request(target), request('/health'));
    const [failed, health] = await connection.responses(['GET', 'GET']);
    assert.deepEqual([failed?.status, (JSON.parse(failed!.text) as { code: string }).code], [500, 'INTERNAL']);
    assert.equal(health?.status, 200);
  });
}

test('an error in the middle of a history destroys the connection', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  for (let n = 0; n < 1200; n++) await app.registry.update('vm-1', { name: `${n}`.padEnd(400, 'x') });
  const { history } = app.store;
  let pages = 0;
  app.store.history = (...args) => {
    if (++pages > 2) return Promise.reject(new Error('boom'));
    return history.apply(app.store, args);
  };
  const connection = Connection.open(t, app.at).send(request('/registry/vms/vm-1/history?limit=2000'));
  const bytes = (await connection.closed).toString('latin1');
  assert.match(bytes, /^HTTP\/1\.1 200 /);
  assert.doesNotMatch(bytes, /"error"|\r\n0\r\n\r\n/);
  assert.equal(pages, 3);
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
});

for (const target of TARGETS) {
  test(`little of GET ${target} is buffered while its client does not read, and all of it arrives when the client reads`, async (t) => {
    const app = await withLongList(t);
    const accepted = once(app.server, 'connection') as Promise<[Socket]>;
    const connection = Connection.open(t, app.at);
    connection.socket.pause();
    connection.send(request(target));
    const [served] = await accepted;
    await until('the kernel buffers to be full', () => served.writableLength > 0);
    let most = 0;
    for (let turn = 0; turn < 50; turn++) {
      await new Promise(setImmediate);
      most = Math.max(most, served.writableLength);
    }
    assert.ok(most < 3 * PAD, `${most} bytes were buffered`);
    connection.socket.resume();
    const { text } = await connection.response();
    assert.equal((JSON.parse(text) as { count: number }).count, VMS);
    assert.ok(text.length > VMS * PAD);
  });

  test(`a client that leaves in the middle of GET ${target} stops the encoding of entries`, async (t) => {
    const app = await withLongList(t);
    let made = 0;
    for (let n = 0; n < VMS; n++) {
      const entry = app.registry.get(`vm-${n}`);
      const { json, jsonWith } = entry;
      Object.defineProperty(entry, 'json', {
        get() {
          made++;
          return json;
        },
      });
      entry.jsonWith = (more) => {
        made++;
        return jsonWith.call(entry, more);
      };
    }
    for (const leave of ['reset', 'destroy'] as const) {
      made = 0;
      const accepted = once(app.server, 'connection') as Promise<[Socket]>;
      const connection = Connection.open(t, app.at).send(request(target));
      const [served] = await accepted;
      await once(connection.socket, 'data');
      connection.socket.pause();
      await until('the kernel buffers to be full', () => served.writableLength > 0);
      if (leave === 'reset') connection.reset();
      else connection.socket.destroy();
      await until('the connection to be closed', () => served.closed);
      const before = made;
      for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
      assert.ok(
        before < VMS && made - before <= 1,
        `${before} entries were encoded before the client left, ${made} in total`,
      );
    }
  });
}

test('a client that leaves in the middle of a backup leaves no copy behind', async (t) => {
  class CopiedStore extends MemoryStore {
    override async backup(path?: string): Promise<void> {
      writeFileSync(path!, Buffer.alloc(20_000_000, 'x'));
    }
  }
  const dataDir = tempDir(t);
  const app = await serveApp(t, { dataDir, store: new CopiedStore() });
  for (const leave of ['reset', 'destroy'] as const) {
    const connection = Connection.open(t, app.at).send(request('/registry/backup'));
    await once(connection.socket, 'data');
    connection.socket.pause();
    assert.equal(readdirSync(dataDir).length, 1);
    if (leave === 'reset') connection.reset();
    else connection.socket.destroy();
    await until('the copy to be removed', () => readdirSync(dataDir).length === 0);
  }
  const [whole] = await askRaw(t, app.at, request('/registry/backup').replace('Host', 'Connection: close\r\nHost'));
  assert.equal(whole?.text.length, 20_000_000);
  await until('the copy to be removed', () => readdirSync(dataDir).length === 0);
});

test('a client that leaves before a backup is complete ends the copy', async (t) => {
  class SlowStore extends MemoryStore {
    override async backup(path?: string, signal?: AbortSignal): Promise<void> {
      writeFileSync(path!, 'half');
      await once(signal!, 'abort');
      throw signal!.reason;
    }
  }
  const dataDir = tempDir(t);
  const app = await serveApp(t, { dataDir, store: new SlowStore() });
  const connection = Connection.open(t, app.at).send(request('/registry/backup'));
  await until('the copy to be started', () => readdirSync(dataDir).length === 1);
  connection.socket.destroy();
  await until('the copy to be removed', () => readdirSync(dataDir).length === 0);
});

test('HTTP/1.0 gets no transfer coding: a body of unknown length ends with the connection', async (t) => {
  const app = await withLongList(t);
  for (const target of [...TARGETS, '/registry/vms/vm-1/history', '/health', '/metrics', '/nowhere']) {
    const connection = Connection.open(t, app.at).send(request(target, '1.0'));
    const [response, ...more] = await connection.remaining();
    assert.equal(more.length, 0, target);
    assert.equal(response?.headers['transfer-encoding'], undefined, target);
    assert.equal(response?.status, target === '/nowhere' ? 404 : 200, target);
    if (target.startsWith('/registry/vms?') || target === '/registry/vms')
      assert.equal((JSON.parse(response!.text) as { count: number }).count, VMS, target);
  }
});

test('HTTP/1.0 gets an event stream without chunks', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'vm-1' }));
  const connection = Connection.open(t, app.at).send(request('/registry/events?since=start', '1.0'));
  const { status, headers } = await connection.responseHead();
  assert.deepEqual([status, headers['transfer-encoding']], [200, undefined]);
  await until('the subscriber', () => app.registry.events.subscriberCount === 1);
  await app.registry.register(aVm({ id: 'vm-2' }));
  const text = await connection.received(/"id":"vm-2".*\n\n/);
  for (const line of text.split('\n')) assert.match(line, /^(|id: \d+-[0-9a-f]{16}|event: \w+|data: \{.*\})$/);
});

test('HTTP/1.0 with keep-alive may send a second request', async (t) => {
  const app = await serveApp(t);
  const kept = 'GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n';
  const connection = Connection.open(t, app.at).send(kept);
  const first = await connection.response();
  assert.deepEqual([first.status, first.headers['transfer-encoding']], [200, undefined]);
  if (first.headers.connection === 'close') return;
  connection.send(kept);
  assert.equal((await connection.response()).status, 200);
});
