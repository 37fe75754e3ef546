/** Work that takes long: all of it is done, in its order, and nobody waits for all of it. */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Pieces } from '../../../daemon/http/scheduler.ts';
import type { History, HistoryItem } from '../../../src/protocol/events.ts';
import { serveApp } from '../../helpers/app.ts';
import { call } from '../../helpers/http.ts';
import { readAnswers } from '../../helpers/raw.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

/** Keeps the event loop busy for longer than the work of one turn may last. */
function work(): void {
  const until = performance.now() + 8;
  while (performance.now() < until);
}

test('work is done at once while there is time in a turn, and what is too much waits in its order', async () => {
  const pieces = new Pieces();
  const done: string[] = [];
  const long = (name: string) =>
    pieces.run(() => {
      work();
      done.push(name);
      return name;
    });
  assert.equal(
    pieces.run(() => 'short'),
    'short',
  );
  assert.equal(long('a'), 'a');
  const waiting = ['b', 'c', 'd'].map(long);
  assert.deepEqual(done, ['a']);
  // Of three that take a turn each, others see each of them come.
  const seen: string[] = [];
  while (done.length < 4) {
    await setImmediate();
    if (seen.at(-1) !== done.join('')) seen.push(done.join(''));
  }
  assert.deepEqual(await Promise.all(waiting), ['b', 'c', 'd']);
  assert.ok(seen.includes('abc'), `others have had their turn after ${seen}`);
});

test('work that fails fails for who asked, and what comes after it is done', async () => {
  const pieces = new Pieces();
  pieces.run(work);
  const failing = pieces.run(() => {
    throw new Error('broken');
  });
  const next = pieces.run(() => 'next');
  await assert.rejects(Promise.resolve(failing), /broken/);
  assert.equal(await next, 'next');
});

test('works in line are done one after the other, a turn for each, also after one that fails', async () => {
  const pieces = new Pieces();
  let turn = 0;
  let isOpen = true;
  const count = () => {
    turn++;
    if (isOpen) globalThis.setImmediate(count);
  };
  count();
  const begun: number[] = [];
  let underWay = 0;
  const works = Array.from({ length: 5 }, (_, n) =>
    pieces.inLine(async () => {
      begun.push(turn);
      assert.equal(++underWay, 1);
      await Promise.resolve();
      underWay--;
      if (n === 1) throw new Error('broken');
      return n;
    }),
  );
  const ends = await Promise.allSettled(works);
  isOpen = false;
  assert.deepEqual(
    ends.map((end) => (end.status === 'fulfilled' ? end.value : 'broken')),
    [0, 'broken', 2, 3, 4],
  );
  assert.equal(new Set(begun).size, 5, `begun in the turns ${begun}`);
});

test('a filter keeps what an array would, and ends where nobody wants it any more', async () => {
  const pieces = new Pieces();
  const numbers = Array.from({ length: 2000 }, (_, n) => n);
  const isOdd = (n: number) => {
    if (n % 200 === 0) work();
    return n % 2 === 1;
  };
  assert.deepEqual(
    await pieces.filter(numbers, isOdd, () => true),
    numbers.filter((n) => n % 2 === 1),
  );
  assert.deepEqual(await pieces.filter([], isOdd, () => true), []);
  let looks = 0;
  const kept = await pieces.filter(numbers, isOdd, () => ++looks < 3);
  assert.ok(kept.length < 500, `${kept.length} were kept`);
});

test('a read of one VM is answered while lists, for which there is no end of work, are made', async (t) => {
  const { url, registry } = await serveApp(t);
  const metadata = { deep: Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`key${n}`, n])) };
  for (let n = 0; n < 40; n++) await registry.register(aVm({ id: `vm-${n}`, metadata }));
  const path = `/registry/vms?limit=1&selector=${encodeURIComponent('deep!={}')}`;
  let lists = 0;
  const made = Promise.all(
    Array.from({ length: 5 }, async () => {
      assert.equal((await call(url, 'GET', path)).status, 200);
      lists++;
    }),
  );
  let answers = 0;
  while (lists < 5) {
    assert.equal((await call(url, 'GET', '/registry/vms/vm-1/why')).status, 200);
    answers++;
  }
  await made;
  assert.ok(answers > 20, `${answers} answers`);
});

test('large bodies that are whole at the same time are read one in a turn, and not all before anybody else is served', async (t) => {
  const app = await serveApp(t);
  const served: Socket[] = [];
  app.server.on('connection', (socket: Socket) => served.push(socket));
  const metadata = Object.fromEntries(Array.from({ length: 80_000 }, (_, n) => [n.toString(36), n]));
  const half = Array.from({ length: 12 }, (_, n) => {
    const body = JSON.stringify(aVm({ id: `vm-${n}`, metadata }));
    const socket = connect(app.at);
    const head = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
    socket.write(head + body.slice(0, -1));
    return { socket, length: head.length + body.length - 1, answers: readAnswers(socket) };
  });
  const whole = half.reduce((sum, { length }) => sum + length, 0);
  await until('all but the last bytes to be read', () => served.reduce((sum, s) => sum + s.bytesRead, 0) === whole);
  // The loop's turns end with its immediates, so this is a new number in each.
  let turn = 0;
  let next = globalThis.setImmediate(function count() {
    turn++;
    next = globalThis.setImmediate(count);
  });
  const changes = new Map<number, number>();
  const commit = app.store.commit.bind(app.store);
  app.store.commit = (change) => {
    changes.set(turn, (changes.get(turn) ?? 0) + 1);
    return commit(change);
  };
  for (const { socket } of half) socket.write('}');
  for (const { answers } of half) assert.equal((await answers)[0]?.status, 201);
  globalThis.clearImmediate(next);
  const most = Math.max(...changes.values());
  // One at once, and one at the end of the turn.
  assert.ok(most <= 2, `${most} of them were read in one turn`);
});

test('a long history is read and sent in pages: every change once, newest first', async (t) => {
  const { url, registry, store } = await serveApp(t);
  const limits: number[] = [];
  const history = store.history.bind(store);
  store.history = async (id, limit, before) => {
    limits.push(limit);
    return history(id, limit, before);
  };
  const ask = async (query = '') => (await call(url, 'GET', `/registry/vms/vm-1/history${query}`)).body as History;
  const revisions = ({ history: items }: History) => items.map(({ revision }: HistoryItem) => revision);
  const last = (count: number) => Array.from({ length: count }, (_, n) => registry.revision - n);
  await registry.register(aVm());
  for (let n = 1; n < 250; n++) await registry.update('vm-1', { name: `name ${n}` });
  for (const limit of [1, 99, 100, 101, 200, 249, 250, 251, 10_000]) {
    const answer = await ask(`?limit=${limit}`);
    const count = Math.min(limit, 250);
    assert.deepEqual([answer.id, answer.count, revisions(answer)], ['vm-1', count, last(count)], String(limit));
  }
  assert.equal((await ask()).count, 100);
  assert.ok(Math.max(...limits) <= 100, `${Math.max(...limits)} changes were read at once`);
  // Also of one that has gone: that there are no more pages is no "not found".
  await registry.deregister('vm-1');
  assert.equal((await ask('?limit=251')).count, 251);
  const headed = await call(url, 'HEAD', '/registry/vms/vm-1/history?limit=10000');
  assert.equal(headed.status, 200);
});
