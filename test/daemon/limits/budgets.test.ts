import assert from 'node:assert/strict';
import test from 'node:test';
import { BUDGETS, Budget, type BudgetName, budgetExhausted, createBudgets } from '../../../daemon/limits/budgets.ts';
import { entriesLimit } from '../../../daemon/limits/heap.ts';

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
