/** What slow readers keep of the registry's memory: little each, and together no more than there is room for. */
import assert from 'node:assert/strict';
import { IncomingMessage, ServerResponse } from 'node:http';
import { connect, Socket } from 'node:net';
import { Writable } from 'node:stream';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { asTaken, Kept } from '../../../daemon/http/response-budget.ts';
import { serveApp } from '../../helpers/app.ts';
import { call, errorOf } from '../../helpers/http.ts';
import { readAnswers } from '../../helpers/raw.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

function aResponse(): ServerResponse {
  return new ServerResponse(new IncomingMessage(new Socket()));
}

for (const path of ['/registry/vms', '/registry/events?since=start']) {
  test(`readers who do not read ${path} keep a share of the heap, and one more is 429 until one of them has gone`, async (t) => {
    const { at, url, registry, server } = await serveApp(t, { limits: { maxKept: 1_500_000 } });
    // More than the kernel takes for who does not read.
    const metadata = { pad: 'x'.repeat(1_000_000) };
    for (let n = 0; n < 24; n++) await registry.register(aVm({ id: `vm-${n}`, metadata }));
    await registry.register(aVm({ id: 'small' }));
    const served: Socket[] = [];
    server.on('connection', (socket: Socket) => served.push(socket));
    const slow = [1, 2].map(() => connect(at).pause());
    for (const [n, socket] of slow.entries()) {
      socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`);
      await until('the kernel to be full', () => (served[n]?.writableLength ?? 0) > 0);
      assert.ok(served[n]!.writableLength < 2_100_000, `${served[n]!.writableLength} bytes wait`);
    }
    const { revision } = registry;
    for (const [method, another, body] of [
      ['GET', '/registry/vms'],
      ['GET', '/registry/vms?sort=id'],
      ['GET', '/registry/events?since=start'],
      ['GET', '/registry/vms/vm-1'],
      ['GET', '/registry/vms/vm-1?include=liveness'],
      ['PATCH', '/registry/vms/vm-1', { name: 'new' }],
      ['PUT', '/registry/vms/small', aVm({ id: 'small', metadata })],
      ['POST', '/registry/vms', aVm({ id: 'large', metadata })],
    ] as const) {
      const refused = await call(url, method, another, { body });
      assert.deepEqual([refused.status, refused.headers.get('retry-after')], [429, '5'], another);
      assert.match(errorOf(refused), /^answers that their readers have not taken yet keep 1500000 bytes/);
    }
    assert.equal(registry.revision, revision, 'what cannot be answered is not done');
    // What is small is answered, whoever reads slowly.
    assert.equal((await call(url, 'GET', '/registry/discover/infra')).status, 200);
    assert.equal((await call(url, 'PATCH', '/registry/vms/small', { body: { name: 'new' } })).status, 200);
    assert.equal((await call(url, 'DELETE', '/registry/vms/vm-2')).status, 200);
    slow[0]!.destroy();
    await until(
      'room for another',
      async () => (await fetch(`${url}/registry/vms`, { method: 'HEAD' })).status === 200,
    );
    const answers = readAnswers(slow[1]!);
    slow[1]!.end();
    slow[1]!.resume();
    if (path === '/registry/vms') assert.equal((await answers)[0]?.status, 200);
    slow[1]!.destroy();
  });
}

test('a piece is made when the one before is taken, and it alone is kept', async () => {
  const kept = new Kept(100);
  const response = aResponse();
  let made = 0;
  const answer = asTaken(async () => (++made > 5 ? undefined : 'x'.repeat(made * 10)), kept.open(response));
  let take = () => {};
  const taken: number[] = [];
  const reader = new Writable({
    highWaterMark: 1,
    write: ({ length }: Buffer, _, done) => {
      taken.push(length);
      take = done;
    },
  });
  answer.pipe(reader);
  for (let n = 1; n <= 5; n++) {
    await until(`piece ${n}`, () => taken.length === n);
    for (let turn = 0; turn < 5; turn++) await setImmediate();
    assert.deepEqual([made, kept.bytes], [n, n * 10]);
    take();
  }
  await until('the end', () => reader.writableFinished);
  assert.equal(kept.bytes, 0);
});

test('an answer of one text counts, unless it is small; what a change answers counts, but is not refused', () => {
  const kept = new Kept(40_000);
  const response = aResponse();
  kept.text('x'.repeat(16_384), aResponse(), false);
  assert.equal(kept.bytes, 0);
  kept.text('é'.repeat(20_000), response, false);
  assert.equal(kept.bytes, 40_000);
  assert.throws(() => kept.text('x'.repeat(20_000), aResponse(), false), { code: 'TOO_MANY_REQUESTS' });
  kept.text('x'.repeat(20_000), aResponse(), true);
  assert.equal(kept.bytes, 60_000);
  response.emit('close');
  assert.equal(kept.bytes, 20_000);
});

test('an answer whose making fails breaks off', async () => {
  const answer = asTaken(() => Promise.reject(new Error('broken')), new Kept(100).open(aResponse()));
  await assert.rejects(answer.toArray(), /broken/);
});

test('what many share counts once, until the last of them has gone', () => {
  const kept = new Kept(100);
  const thing = {};
  const [a, b] = [aResponse(), aResponse()];
  const accounts = [a, b].map((response) => kept.open(response));
  for (const account of accounts) account.share(thing, 90);
  accounts[1]!.keep(20);
  accounts[1]!.keep(10);
  assert.equal(kept.bytes, 100);
  assert.throws(() => kept.open(aResponse()), { code: 'TOO_MANY_REQUESTS', retryAfter: 5 });
  a!.emit('close');
  assert.equal(kept.bytes, 100);
  accounts[1]!.close();
  assert.equal(kept.bytes, 0);
  // Its connection goes later.
  b!.emit('close');
  accounts[1]!.keep(50);
  assert.equal(kept.bytes, 0);
});

test('an answer whose reader has gone already keeps nothing', () => {
  const kept = new Kept(100);
  const response = aResponse();
  response.destroy();
  const account = kept.open(response);
  account.keep(50);
  account.share({}, 50);
  assert.equal(kept.bytes, 0);
});

test('all who list the VMs between two changes are given the same list', async (t) => {
  const { registry } = await serveApp(t);
  const ids = () => registry.list({}).map(({ vm }) => vm.id);
  for (const id of ['a', 'b']) await registry.register(aVm({ id }));
  const before = registry.list({});
  registry.heartbeat('a');
  assert.equal(registry.list({}), before);
  await registry.register(aVm({ id: 'c' }));
  assert.deepEqual(ids(), ['c', 'b', 'a']);
  await registry.update('b', { name: 'new' });
  assert.equal(registry.list({})[1]!.vm.name, 'new');
  await registry.deregister('b');
  assert.deepEqual(ids(), ['c', 'a']);
  assert.deepEqual(
    before.map(({ vm }) => vm.id),
    ['b', 'a'],
  );
});
