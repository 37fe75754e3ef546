/** Answers that take long: those that are held, of which there are not too many, and long lists, which are sent in pieces. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { Lookout } from '../../../daemon/http/semaphore.ts';
import type { VmList } from '../../../src/protocol/api.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import { serveApp } from '../../helpers/app.ts';
import { call } from '../../helpers/http.ts';
import { readEvents } from '../../helpers/stream.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const WAIT = '/registry/discover/worker?wait=50s';

test('waits and streams are held up to the limit; one more is 429, and has a place when another has gone', async (t) => {
  const { url, registry } = await serveApp(t, { limits: { maxHeld: 2 } });
  const stream = await readEvents(t, url);
  const wait = call(url, 'GET', WAIT);
  await until('both to be held', () => registry.events.subscriberCount === 2);
  for (const path of [WAIT, '/registry/events']) {
    const { status, headers, body } = await call(url, 'GET', path);
    assert.deepEqual(
      [status, headers.get('retry-after'), (body as { code: string }).code],
      [429, '5', 'TOO_MANY_REQUESTS'],
    );
    assert.match((body as { error: string }).error, /^there are 2 requests that wait or watch already/);
  }
  // What is answered at once is not held, and does not count.
  assert.equal((await call(url, 'GET', '/registry/discover/worker?wait=50s&min=0')).status, 200);
  stream.drop();
  await until('the place of the stream', () => registry.events.subscriberCount === 1);
  const again = call(url, 'GET', WAIT);
  await until('it to be taken', () => registry.events.subscriberCount === 2);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  assert.deepEqual([(await wait).status, (await again).status], [200, 200]);
  const third = await readEvents(t, url);
  assert.equal(third.status, 200);
});

test('a hundred that wait for the same, or for something else, are each answered when there is enough of it', async (t) => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on('warning', note);
  t.after(() => process.off('warning', note));
  const { url, registry } = await serveApp(t);
  const ask = async (query: string) => ((await call(url, 'GET', `${WAIT}${query}`)).body as VmList).count;
  const one = Array.from({ length: 60 }, () => ask(''));
  const two = Array.from({ length: 40 }, () => ask('&min=2&service=web'));
  await until('all to be held', () => registry.events.subscriberCount === 100);
  const services = [{ name: 'web', port: 80 }];
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', services }) });
  assert.deepEqual(await Promise.all(one), Array(60).fill(1));
  assert.equal(registry.events.subscriberCount, 40);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'b' }) });
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'c', services }) });
  assert.deepEqual(await Promise.all(two), Array(40).fill(2));
  assert.equal(registry.events.subscriberCount, 0);
  assert.deepEqual(warnings, []);
});

test('who has waited for all of their time is answered before those are looked at who may wait longer', async () => {
  const lookout = new Lookout();
  const looks: string[] = [];
  const join = (key: string, finish = () => {}) => {
    const look = () => {
      looks.push(key);
      return [];
    };
    return lookout.join(key, look, 1, finish);
  };
  const others = ['a', 'b', 'c'].map((key) => join(key));
  await new Promise<void>((resolve) => {
    const last = join('last', () => {
      last.leave();
      resolve();
    });
    for (const other of others) other.look();
    last.over();
  });
  assert.equal(looks[0], 'last');
  await until('the others to be looked at', () => looks.length === 4);
  assert.deepEqual(looks, ['last', 'a', 'b', 'c']);
});

/** About 3 MB in 3000 entries. */
async function largeRegistry(t: Parameters<typeof serveApp>[0]) {
  const app = await serveApp(t);
  const metadata = { pad: 'ü'.repeat(500) };
  for (let n = 0; n < 3000; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  return app;
}

test('a long list is the same as a short one: all entries, in their order, with a length', async (t) => {
  const { url, registry } = await largeRegistry(t);
  const expected = registry.list({}).map(({ json }) => JSON.parse(json) as Vm);
  const answer = await fetch(`${url}/registry/vms`);
  const text = await answer.text();
  assert.equal(Buffer.byteLength(text), Number(answer.headers.get('content-length')));
  assert.deepEqual(JSON.parse(text), { vms: expected, count: 3000 });
  const extended = (await call(url, 'GET', '/registry/vms?include=liveness&sort=id')).body as VmList;
  assert.deepEqual(
    extended.vms,
    expected.toSorted((a, b) => (a.id < b.id ? -1 : 1)).map((vm) => ({ ...vm, stale: false })),
  );
  const headed = await call(url, 'HEAD', '/registry/vms');
  assert.equal(headed.headers.get('content-length'), answer.headers.get('content-length'));
});

test('what changes while a long list is read does not change it', async (t) => {
  const { url, registry, clock } = await largeRegistry(t);
  const answer = await new Promise<IncomingMessage>((resolve) => get(`${url}/registry/vms`, { agent: false }, resolve));
  await registry.deregister('vm-0');
  await registry.update('vm-1', { name: 'another' });
  clock.pass(1000);
  registry.heartbeat('vm-2');
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  const { vms, count } = JSON.parse(text) as VmList;
  assert.deepEqual([vms.length, count], [3000, 3000]);
  assert.deepEqual([vms[2999]!.id, vms[2998]!.name], ['vm-0', 'one']);
});

test('a reader that breaks off in a long list leaves the registry as it was', async (t) => {
  const { url, at, logged } = await largeRegistry(t);
  for (let n = 0; n < 10; n++) {
    const socket = connect(at);
    socket.write('GET /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(socket, 'data');
    socket.destroy();
  }
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  assert.deepEqual(
    logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
    [],
  );
});

/** Text of a stream as far as it was read, and its connection on the side of the registry. */
async function startedStream(t: Parameters<typeof serveApp>[0], keptEvents: number) {
  const app = await serveApp(t, { keptEvents });
  // More than the kernel takes for who does not read.
  const metadata = { pad: 'x'.repeat(1_000_000) };
  for (let n = 0; n < 24; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  const accepted = once(app.server, 'connection') as Promise<[Socket]>;
  const asked = get(`${app.url}/registry/events?since=start`, { agent: false });
  t.after(() => asked.destroy());
  asked.on('error', () => {});
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  const [served] = await accepted;
  await until('the kernel to be full', () => served.writableLength > 0);
  let text = '';
  const told = () => [...text.matchAll(/^event: (\w+)$/gm)].map(([, type]) => type!);
  const readTo = (last: string) =>
    new Promise<void>((resolve) => {
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        if (chunk.endsWith('\n\n') && told().includes(last)) resolve();
      });
    });
  return { ...app, served, readTo, told };
}

test('the full state waits for a slow reader entry by entry, and what changes meanwhile is told after it', async (t) => {
  const { served, registry, readTo, told } = await startedStream(t, 100);
  // One entry of 24, or two, is written at once; the others are still those of the registry.
  assert.ok(served.writableLength < 4_000_000, `${served.writableLength} bytes wait`);
  await registry.update('vm-0', { name: 'changed' });
  await registry.deregister('vm-1');
  await readTo('deregistered');
  assert.deepEqual(told(), ['reset', ...Array(24).fill('registered'), 'synced', 'updated', 'deregistered']);
});

test('who takes so long that the changes meanwhile are not known any more is told that it lagged', async (t) => {
  const { registry, readTo, told } = await startedStream(t, 2);
  for (const name of ['a', 'b', 'c']) await registry.update('vm-0', { name });
  await readTo('lagged');
  assert.deepEqual(told(), ['reset', ...Array(24).fill('registered'), 'synced', 'lagged']);
});
