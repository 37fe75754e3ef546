import assert from 'node:assert/strict';
import test from 'node:test';
import { Endpoints } from '../../../../daemon/store/etcd/endpoints.ts';

/** Three members and a clock that the test sets. */
function make(random = 0) {
  const clock = { now: 0 };
  const endpoints = new Endpoints(
    ['a', 'b', 'c'],
    () => clock.now,
    () => random,
  );
  return { clock, endpoints };
}

test('all requests go to one member until it fails, and then to the next', () => {
  const { endpoints } = make();
  assert.deepEqual([endpoints.choose(), endpoints.choose()], ['a', 'a']);
  endpoints.failed('a', true);
  assert.deepEqual([endpoints.choose(), endpoints.choose()], ['b', 'b']);
});

test('the first member is random, so that replicas spread over the cluster', () => {
  assert.deepEqual(
    [make(0).endpoints.choose(), make(0.5).endpoints.choose(), make(0.99).endpoints.choose()],
    ['a', 'b', 'c'],
  );
});

test('a client stays on its new member when the old one has recovered', () => {
  const { endpoints, clock } = make();
  endpoints.failed('a', true);
  assert.equal(endpoints.choose(), 'b');
  clock.now = 10_000;
  assert.equal(endpoints.choose(), 'b');
});

test('a frozen member is avoided for longer than one that refuses connections', () => {
  const { endpoints, clock } = make();
  endpoints.failed('a', true);
  endpoints.failed('b', false);
  endpoints.failed('c', false);
  clock.now = 1001;
  assert.equal(endpoints.choose(), 'b');
});

test('if all members have failed, the one that recovers first is chosen', () => {
  const { endpoints, clock } = make();
  endpoints.failed('a', true);
  clock.now = 10;
  endpoints.failed('b', false);
  clock.now = 20;
  endpoints.failed('c', false);
  assert.equal(endpoints.choose(), 'b');
});

test('avoiding a member for one request does not move the others', () => {
  const { endpoints } = make();
  assert.equal(endpoints.choose('a'), 'b');
  assert.equal(endpoints.choose(), 'a');
  assert.equal(
    new Endpoints(
      ['only'],
      () => 0,
      () => 0,
    ).choose('only'),
    'only',
  );
});

test('requests pause together only while all members have failed', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { endpoints } = make();
  endpoints.failed('a', true);
  endpoints.failed('b', true);
  await endpoints.pauseIfAllFailed();
  endpoints.failed('c', true);
  let continued = 0;
  const waiting = [1, 2, 3].map(async () => {
    await endpoints.pauseIfAllFailed();
    continued++;
  });
  await Promise.resolve();
  assert.equal(continued, 0);
  t.mock.timers.tick(50);
  await Promise.all(waiting);
  assert.equal(continued, 3);
});
