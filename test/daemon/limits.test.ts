/** Memory budgets, the semaphore and the scheduler. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import {
  BUDGETS,
  Budget,
  type BudgetName,
  budgetExhausted,
  createBudgets,
  entriesLimit,
  fitsAtStart,
  heapTooSmall,
  openStreamLimit,
  requestTimeout,
  Scheduler,
  Semaphore,
  storeTooLarge,
} from '../../daemon/limits.ts';
import { formatBytes, type VregError } from '../../src/protocol/errors.ts';

const GIB = 1024 ** 3;
const full = { code: 'TOO_MANY_REQUESTS' };

test('the shares of all budgets add up to less than half of the heap that the entries leave', () => {
  const shares = Object.values(BUDGETS).reduce((sum, { share }) => sum + share, 0);
  assert.ok(shares < 1 / 2, `the shares add up to ${shares}`);
  for (const heap of [GIB / 8, GIB, 4 * GIB]) {
    const rest = heap - entriesLimit(heap);
    assert.equal(rest, heap / 2);
    const limits = Object.values(createBudgets({}, heap)).reduce((sum, { limit }) => sum + limit, 0);
    assert.ok(limits < rest / 2, `${limits} of ${rest} bytes`);
  }
});

test('a heap that is too small for a number of VMs is an error that names the setting and a size that is enough', () => {
  assert.equal(heapTooSmall(1_000_000, 4 * GIB), undefined);
  const error = heapTooSmall(1_000_000, GIB);
  assert.equal(error?.code, 'USAGE');
  assert.match(error.message, /^the heap \(1 GiB\) is too small for 1000000 VMs: it has room for about \d+$/);
  const [, megabytes] = /NODE_OPTIONS=--max-old-space-size=(\d+)$/.exec(error.hint!) ?? [];
  assert.equal(heapTooSmall(1_000_000, Number(megabytes) * 1024 ** 2), undefined);
  assert.ok(heapTooSmall(1_000_000, (Number(megabytes) - 1) * 1024 ** 2));
});

test('stored entries above their limit are a warning, and far above it an error, that names a size that is enough', () => {
  assert.equal(storeTooLarge(GIB / 2, GIB), undefined);
  const error = storeTooLarge(0.7 * GIB, GIB)!;
  assert.deepEqual([fitsAtStart(0.7 * GIB, GIB), fitsAtStart(0.8 * GIB, GIB)], [true, false]);
  assert.equal(error.code, 'STORE_UNUSABLE');
  const [, megabytes] = /NODE_OPTIONS=--max-old-space-size=(\d+)$/.exec(error.hint!) ?? [];
  assert.equal(storeTooLarge(0.7 * GIB, Number(megabytes) * 1024 ** 2), undefined);
  assert.ok(storeTooLarge(0.7 * GIB, (Number(megabytes) - 1) * 1024 ** 2));
});

test('by default a budget is a share of the heap of this process', () => {
  const { responses } = createBudgets();
  const { responses: given, pipelined } = createBudgets({ responses: 1000 }, 4 * GIB);
  assert.ok(responses.limit > 1_000_000);
  assert.deepEqual([given.limit, pipelined.limit], [1000, GIB / 4]);
});

test('a reservation occupies its bytes until it is released, once', () => {
  const budget = new Budget('responses', 100);
  const [a, b] = [budget.reserve(60), budget.reserve(40)];
  assert.equal(budget.used, 100);
  assert.throws(() => budget.reserve(1), full);
  assert.throws(() => budget.reserve(), full);
  assert.equal(budget.used, 100);
  a.release();
  a.release();
  a.resize(50);
  a.share({}, 50);
  assert.equal(budget.used, 40);
  assert.equal(budget.fits(60), true);
  assert.equal(budget.fits(61), false);
  b.release();
  assert.equal(budget.used, 0);
});

test('a reservation may grow beyond the limit, and then the budget refuses new ones until it shrinks', () => {
  const budget = new Budget('responses', 100);
  const one = budget.reserve(90);
  one.resize(150);
  assert.equal(budget.used, 150);
  assert.throws(() => budget.assertFits(), full);
  one.resize(10);
  budget.assertFits(90);
});

test('an empty budget grants a reservation that is larger than its limit', () => {
  const budget = new Budget('bodies', 100);
  const large = budget.reserve(1000);
  assert.throws(() => budget.reserve(1), full);
  large.release();
  budget.reserve(100);
});

test('bytes that cannot be refused are counted, even if the budget is used up', () => {
  const budget = new Budget('responses', 100);
  budget.reserve(100);
  const committed = budget.reserveAnyway(50);
  assert.equal(budget.used, 150);
  committed.release();
  assert.equal(budget.used, 100);
});

test('an object that many reservations share counts once, until the last of them is released', () => {
  const budget = new Budget('responses', 100);
  const thing = {};
  const [a, b] = [budget.reserve(), budget.reserve()];
  for (const reservation of [a, b]) reservation.share(thing, 90);
  b.resize(10);
  assert.equal(budget.used, 100);
  a.release();
  assert.equal(budget.used, 100);
  b.release();
  assert.equal(budget.used, 0);
});

test('the error of a budget that is used up names the buffer, its limit, the cause and a next step', () => {
  const error = budgetExhausted(new Budget('responses', 512 * 1024 ** 2));
  assert.equal(error.message, 'the responses buffer is full (limit 512 MiB): clients read responses too slowly');
  assert.deepEqual([error.code, error.status, error.retryAfter], ['TOO_MANY_REQUESTS', 429, 5]);
  assert.match(error.hint!, /^read responses faster/);
  for (const name of Object.keys(BUDGETS) as BudgetName[]) {
    const { message, hint, retryAfter } = budgetExhausted({ name, limit: 1000 });
    assert.match(message, new RegExp(`^the ${name} buffer is full \\(limit 1000 bytes\\): .+`));
    assert.ok(hint && retryAfter! > 0, name);
  }
});

test('bytes are formatted in the largest unit that fits, with at most one decimal', () => {
  const texts = [0, 1000, 1024, 1536, 1_500_000, 1024 ** 2, 2.25 * GIB, 5000 * GIB].map(formatBytes);
  assert.deepEqual(texts, ['0 bytes', '1000 bytes', '1 KiB', '1.5 KiB', '1.4 MiB', '1 MiB', '2.3 GiB', '5000 GiB']);
});

test('a semaphore refuses one more than its limit, and each release frees one place', () => {
  const semaphore = new Semaphore('open streams', 2, { hint: 'retry without wait', retryAfter: 5 });
  const [release] = [semaphore.acquire(), semaphore.acquire()];
  assert.throws(
    () => semaphore.acquire(),
    (error: VregError) => {
      assert.equal(error.message, 'too many open streams (limit 2)');
      assert.deepEqual([error.code, error.hint, error.retryAfter], ['TOO_MANY_REQUESTS', 'retry without wait', 5]);
      return true;
    },
  );
  release!();
  release!();
  semaphore.acquire();
  assert.throws(() => semaphore.acquire(), full);
});

test('half of the connections may be open streams, and larger bodies have more time to arrive', () => {
  assert.deepEqual([openStreamLimit(10_000), openStreamLimit(3)], [5000, 2]);
  assert.deepEqual([1024, 1024 ** 2, 4 * 1024 ** 2].map(requestTimeout), [30_000, 30_000, 120_000]);
});

/** Blocks the event loop for longer than one slice of the scheduler. */
function work(): void {
  const end = performance.now() + 8;
  while (performance.now() < end);
}

test('a job runs immediately while its turn has time, and other jobs wait in order', async () => {
  const scheduler = new Scheduler();
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

test('a job that throws rejects its own promise, and the next job still runs', async () => {
  const scheduler = new Scheduler();
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

test('a step that throws ends its own repetition only', async () => {
  const scheduler = new Scheduler();
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

test('two long jobs share the turns, and a short one does not wait for either', async () => {
  const scheduler = new Scheduler();
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

test('serialized jobs run one after the other, each in its own turn, even after one that fails', async () => {
  const scheduler = new Scheduler();
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

test('a filter returns the same as Array.filter, and stops when its client has left', async () => {
  const scheduler = new Scheduler();
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
