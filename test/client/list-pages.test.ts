/** Lists that the client reads in pages. */
import assert from 'node:assert/strict';
import { get } from 'node:http';
import test, { type TestContext } from 'node:test';
import { RegistryClient } from '../../src/client.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../helpers/app.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { openUndici } from '../helpers/transports.ts';
import { aVm } from '../helpers/vm.ts';

/** Two pages and one VM. */
const COUNT = 10_001;

async function withFleet(
  t: TestContext,
): Promise<{ app: ServedApp; client: RegistryClient; requested: URLSearchParams[] }> {
  const app = await serveApp(t);
  const requested: URLSearchParams[] = [];
  for (let n = 0; n < COUNT; n++)
    await app.registry.register(aVm({ id: `vm-${n}`, role: n % 10 === 0 ? 'infra' : 'worker' }));
  app.server.on('request', ({ url }: { url: string }) => requested.push(new URL(url, app.url).searchParams));
  return { app, client: clientOf(t, app.url), requested };
}

function clientOf(t: TestContext, url: string): RegistryClient {
  const client = new RegistryClient({ url, openTransport: openUndici });
  t.after(() => client.close());
  return client;
}

/** A proxy that removes response headers, and records the limits of the requested lists. */
async function startProxy(
  t: TestContext,
  target: string,
  removed: readonly string[],
): Promise<{ url: string; limits: (string | null)[] }> {
  const limits: (string | null)[] = [];
  const url = await stub(t, ({ url, headers }, response) => {
    limits.push(new URL(url!, target).searchParams.get('limit'));
    get(new URL(url!, target), { headers }, (reply) => {
      const kept = Object.entries(reply.headers).filter(([name]) => !removed.includes(name));
      response.writeHead(reply.statusCode!, Object.fromEntries(kept));
      reply.pipe(response);
    });
  });
  return { url, limits };
}

const idsOf = (vms: readonly Vm[]) => vms.map(({ id }) => id);
const newestFirst = Array.from({ length: COUNT }, (_, n) => `vm-${COUNT - 1 - n}`);

test('a long list is read in pages and complete, in order and with liveness', async (t) => {
  const { client, requested } = await withFleet(t);
  const read = async (options: Parameters<RegistryClient['list']>[0]) => {
    requested.length = 0;
    const vms = await client.list(options);
    return { ids: idsOf(vms), limits: requested.map((query) => query.get('limit')), vms };
  };
  const all = await read({});
  assert.deepEqual(all.ids, newestFirst);
  assert.deepEqual(all.limits, ['5000', '5000', '5000']);
  assert.ok(all.vms.every(({ stale }) => stale === false));
  assert.deepEqual((await read({ sort: 'id' })).ids, newestFirst.toSorted());
  const some = await read({ limit: 7000 });
  assert.deepEqual([some.ids, some.limits], [newestFirst.slice(0, 7000), ['5000', '2000']]);
  const few = await read({ role: 'infra', limit: 10 });
  assert.deepEqual([few.ids.length, few.limits], [10, ['10']]);
  const sorted = await read({ sort: 'name' });
  assert.deepEqual([sorted.ids.length, sorted.limits], [COUNT, [null]]);
  requested.length = 0;
  assert.deepEqual(idsOf(await client.listAtOnce()), newestFirst);
  assert.deepEqual(requested.length, 1);
});

test('VMs that come and go while pages are read leave each other VM in the list once, and the position is the first', async (t) => {
  const { app, client, requested } = await withFleet(t);
  const { registry } = app;
  const { current } = registry.positions;
  const changes: Promise<unknown>[] = [];
  app.server.on('request', () => {
    if (requested.length !== 2) return;
    changes.push(registry.register(aVm({ id: 'new' })));
    changes.push(registry.deregister('vm-9999'), registry.deregister('vm-0'));
  });
  const vms = await client.list();
  await Promise.all(changes);
  assert.deepEqual(
    idsOf(vms),
    newestFirst.filter((id) => id !== 'vm-0'),
  );
  assert.equal(client.server.position, current);
  assert.notEqual(registry.positions.current, current);
});

test('a list in pages is warming if one of its pages is', async (t) => {
  const { app, client } = await withFleet(t);
  app.clock.miss(60_000);
  app.clock.pass(1000);
  for (let n = 0; n < COUNT; n++) if (n !== 7) app.registry.heartbeat(`vm-${n}`);
  await client.list();
  assert.equal(client.server.warming, 299);
  app.registry.heartbeat('vm-7');
  await client.list();
  assert.equal(client.server.warming, undefined);
});

test('a list behind a proxy that removes Link, or all headers of vreg, is complete', async (t) => {
  const { app } = await withFleet(t);
  const own = ['x-vreg-version', 'x-vreg-registry-id', 'x-vreg-lease-ms', 'x-vreg-position'];
  for (const removed of [['link'], own, ['link', ...own]]) {
    const proxied = await startProxy(t, app.url, removed);
    const client = clientOf(t, proxied.url);
    assert.deepEqual(idsOf(await client.list()), newestFirst, removed.join());
    const isPaged = !removed.includes('link');
    assert.deepEqual(proxied.limits, isPaged ? ['5000', '5000', '5000'] : ['5000', null]);
    assert.deepEqual(idsOf(await client.list({ limit: 7000 })), newestFirst.slice(0, 7000));
    const workers = await client.list({ role: 'worker', sort: 'id' });
    assert.deepEqual(idsOf(workers), newestFirst.filter((id) => !id.endsWith('0')).toSorted());
    proxied.limits.length = 0;
    assert.equal((await client.list({ limit: 5000 })).length, 5000);
    assert.deepEqual(proxied.limits, ['5000']);
  }
});

test('a list of exactly one page takes one more request, and a list of two pages takes none', async (t) => {
  const { app, client, requested } = await withFleet(t);
  await app.registry.deregister('vm-10000');
  const read = async () => {
    requested.length = 0;
    const vms = await client.list();
    return [vms.length, ...requested.map((query) => query.get('limit'))];
  };
  assert.deepEqual(await read(), [10_000, '5000', '5000']);
  for (let n = 5000; n < 10_000; n++) await app.registry.deregister(`vm-${n}`);
  assert.deepEqual(await read(), [5000, '5000', null]);
});

test('the original registry, which has no pages, is asked once', async (t) => {
  const server = await startPlainServer(t);
  const client = clientOf(t, server.url);
  for (let n = 0; n < 20; n++) await client.register(aVm({ id: `vm-${n}` }));
  assert.equal((await client.list()).length, 20);
  assert.equal((await client.list({ limit: 3, sort: 'id' })).length, 3);
});

test('the cursor of the next page is read from the Link header behind a proxy with a prefix, among other links', async (t) => {
  const pages: (string | null)[] = [];
  const url = await stub(t, ({ url }, response) => {
    const after = new URL(url!, 'http://a').searchParams.get('after');
    pages.push(after);
    const link = '</docs>; rel="help", </prefix/registry/vms?limit=5000&after=a%2Bb>; rel="next"';
    const vms = [{ ...aVm({ id: `vm-${pages.length}` }), registeredAt: '', lastSeen: '' }];
    return json(
      response,
      200,
      { vms, count: 1 },
      {
        'x-vreg-version': '0.1.0',
        ...(after === null ? { link } : {}),
      },
    );
  });
  assert.deepEqual(idsOf(await clientOf(t, url).list()), ['vm-1', 'vm-2']);
  assert.deepEqual(pages, [null, 'a+b']);
});

/** Starts a server that answers each list with one VM (or none) and the link to another page. */
function stubPages(t: TestContext, count: number, cursorOf: (page: number) => string): Promise<string> {
  let page = 0;
  return stub(t, (_request, response) => {
    page++;
    const vms = Array.from({ length: count }, () => ({ ...aVm({ id: `vm-${page}` }), registeredAt: '', lastSeen: '' }));
    const link = `</registry/vms?limit=5000&after=${cursorOf(page)}>; rel="next"`;
    json(response, 200, { vms, count }, { 'x-vreg-version': '0.1.0', link });
  });
}

test('a list whose pages repeat behind a proxy that removes the cursor is an error instead of endless', async (t) => {
  const error = { code: 'BAD_ANSWER', message: /answered GET \/registry\/vms with 200, but its pages repeat$/ };
  await assert.rejects(clientOf(t, await stubPages(t, 1, () => 'a')).list(), error);
  await assert.rejects(clientOf(t, await stubPages(t, 0, String)).list(), error);
});

test('a list starts again once if the registry was replaced by one that rejects the cursor', async (t) => {
  const { app } = await withFleet(t);
  const other = await serveApp(t);
  await other.registry.register(aVm({ id: 'other' }));
  /** A proxy to the fleet, whose next page comes from another registry. @param times number of such pages */
  const startSwitch = (times: number) =>
    stub(t, ({ url, headers }, response) => {
      const { searchParams } = new URL(url!, app.url);
      const target = searchParams.has('after') && times-- > 0 ? `${other.url}/registry/vms?after=x` : app.url + url;
      get(target, { headers }, (reply) => reply.pipe(response.writeHead(reply.statusCode!, reply.headers)));
    });
  assert.deepEqual(idsOf(await clientOf(t, await startSwitch(1)).list()), newestFirst);
  await assert.rejects(clientOf(t, await startSwitch(2)).list(), {
    code: 'BUSY',
    exit: 8,
    message: 'the registry changed while the list was read',
    hint: 'try again',
  });
});
