import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Scheduler } from '../../../daemon/limits/scheduler.ts';

/** The time that a scheduler reads, in milliseconds. */
let now = 0;

/** Makes a scheduler. Until the end of the test, time stands still except during {@link work}. */
function aScheduler(t: TestContext): Scheduler {
  t.mock.method(performance, 'now', () => now);
  return new Scheduler();
}

/** Takes longer than one slice of the scheduler. */
function work(): void {
  now += 8;
}

test('a job runs immediately while its turn has time, and other jobs wait in order', async (t) => {
  const scheduler = aScheduler(t);
  const done: string[] = [];
  const long = (name: string) =>
    scheduler.run(() => {
      work();
      done.push(name);
      return name;
    });
  assert.equal(
    scheduler.run(() => 'short'),
    'short',
  );
  assert.equal(long('a'), 'a');
  const waiting = ['b', 'c', 'd'].map(long);
  assert.deepEqual(done, ['a']);
  // Each of the three takes a turn, so the event loop sees them finish one by one.
  const seen: string[] = [];
  while (done.length < 4) {
    await setImmediate();
    if (seen.at(-1) !== done.join('')) seen.push(done.join(''));
  }
  assert.deepEqual(await Promise.all(waiting), ['b', 'c', 'd']);
  assert.ok(seen.includes('abc'), `the event loop had turns after ${seen}`);
});

test('a job that throws rejects its own promise, and the next job still runs', async (t) => {
  const scheduler = aScheduler(t);
  scheduler.run(work);
  const failing = scheduler.run(() => {
    throw new Error('broken');
  });
  const next = scheduler.run(() => 'next');
  await assert.rejects(Promise.resolve(failing), /broken/);
  assert.equal(await next, 'next');
  assert.throws(() =>
    new Scheduler().run(() => {
      throw new Error('broken');
    }),
  );
});

test('a step that throws ends its own repetition only', async (t) => {
  const scheduler = aScheduler(t);
  let steps = 0;
  const failing = scheduler.repeat(() => {
    if (++steps === 3) throw new Error('broken');
    work();
    return true;
  });
  const other = scheduler.filter([1, 2, 3], (n) => n !== 2);
  await assert.rejects(failing, /broken/);
  assert.equal(steps, 3);
  assert.deepEqual(await other, [1, 3]);
});

test('two long jobs share the turns, and a short one does not wait for either', async (t) => {
  const scheduler = aScheduler(t);
  const order: string[] = [];
  const long = (name: string) => {
    let left = 6;
    return scheduler.repeat(() => {
      work();
      order.push(name);
      return --left > 0;
    });
  };
  const both = Promise.all([long('a'), long('b')]);
  await scheduler.run(() => order.push('short'));
  const before = order.indexOf('short');
  await both;
  assert.ok(before <= 3, `the short job came after ${before} slices`);
  // Neither job gets two slices in a row while the other one waits.
  assert.deepEqual(order.filter((name) => name !== 'short').join(''), 'abababababab');
});

test('serialized jobs run one after the other, each in its own turn, even after one that fails', async (t) => {
  const scheduler = aScheduler(t);
  let turn = 0;
  let isOpen = true;
  const count = () => {
    turn++;
    if (isOpen) globalThis.setImmediate(count);
  };
  count();
  const begun: number[] = [];
  let running = 0;
  const jobs = Array.from({ length: 5 }, (_, n) =>
    scheduler.serialize(async () => {
      begun.push(turn);
      assert.equal(++running, 1);
      await Promise.resolve();
      running--;
      if (n === 1) throw new Error('broken');
      return n;
    }),
  );
  assert.equal(scheduler.serialized, 5);
  const ends = await Promise.allSettled(jobs);
  isOpen = false;
  assert.equal(scheduler.serialized, 0);
  assert.deepEqual(
    ends.map((end) => (end.status === 'fulfilled' ? end.value : 'broken')),
    [0, 'broken', 2, 3, 4],
  );
  assert.equal(new Set(begun).size, 5, `the jobs began in the turns ${begun}`);
});

test('a filter returns the same as Array.filter, and stops when its client has left', async (t) => {
  const scheduler = aScheduler(t);
  const numbers = Array.from({ length: 2000 }, (_, n) => n);
  const isOdd = (n: number) => {
    if (n % 200 === 0) work();
    return n % 2 === 1;
  };
  assert.deepEqual(
    await scheduler.filter(numbers, isOdd),
    numbers.filter((n) => n % 2 === 1),
  );
  assert.deepEqual(await scheduler.filter([], isOdd), []);
  let looks = 0;
  const found = await scheduler.filter(numbers, isOdd, () => ++looks < 3);
  assert.ok(found.length < 500, `${found.length} were found`);
});
