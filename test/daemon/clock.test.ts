import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { ListeningClock, MAX_STEP, QUEUE_TIME, TICK_INTERVAL } from '../../daemon/clock.ts';

/** A listening clock whose monotonic and wall clocks the test moves. */
function setUp(listened = 0) {
  const at = { monotonic: 5000, wall: Date.parse('2026-01-01T00:00:00.000Z') };
  const clock = new ListeningClock(
    listened,
    () => at.monotonic,
    () => at.wall,
  );
  return { at, clock };
}

test('the listening clock counts the time in which it ticks', () => {
  const { at, clock } = setUp();
  for (let tick = 0; tick < 40; tick++) {
    at.monotonic += TICK_INTERVAL;
    clock.tick();
  }
  assert.equal(clock.listening(), 40 * TICK_INTERVAL);
  at.monotonic += 7;
  assert.equal(clock.listening(), 40 * TICK_INTERVAL + 7, 'it also advances between two ticks');
});

test('the listening clock stands still while the process is stopped', () => {
  const { at, clock } = setUp();
  at.monotonic += 3_600_000;
  assert.equal(clock.listening(), MAX_STEP, 'before the first tick after the gap');
  clock.tick();
  assert.equal(clock.listening(), MAX_STEP, 'and after it');
  at.monotonic += TICK_INTERVAL;
  clock.tick();
  assert.equal(clock.listening(), MAX_STEP + TICK_INTERVAL);
});

test('the listening clock ignores changes of the wall clock', () => {
  const { at, clock } = setUp();
  at.wall += 86_400_000;
  assert.equal(clock.listening(), 0);
  assert.equal(clock.now(), at.wall);
  at.wall -= 2 * 86_400_000;
  clock.tick();
  assert.equal(clock.listening(), 0);
  assert.equal(clock.now(), at.wall);
});

test('the listening clock continues from the saved time', () => {
  const { at, clock } = setUp(123_456);
  assert.equal(clock.listening(), 123_456);
  at.monotonic += 10;
  assert.equal(clock.listening(), 123_466);
});

test('the listening clock never goes back and never runs faster than time', () => {
  const step = fc.oneof(
    fc.integer({ min: -1000, max: 10 * MAX_STEP }).map((ms) => ({ ms, tick: true })),
    fc.integer({ min: 0, max: TICK_INTERVAL }).map((ms) => ({ ms, tick: false })),
  );
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const { at, clock } = setUp();
      let passed = 0;
      let before = clock.listening();
      for (const { ms, tick } of steps) {
        at.monotonic += Math.max(ms, 0);
        passed += Math.max(ms, 0);
        if (tick) clock.tick();
        assert.ok(clock.listening() >= before);
        assert.ok(clock.listening() <= passed);
        before = clock.listening();
      }
    }),
  );
});

test('a started clock ticks by itself and does not keep the process alive', (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const { at, clock } = setUp();
  at.monotonic += 60_000;
  clock.start();
  assert.equal(clock.listening(), 0, 'time before the start does not count');
  for (let tick = 0; tick < 20; tick++) {
    at.monotonic += TICK_INTERVAL;
    t.mock.timers.tick(TICK_INTERVAL);
  }
  assert.equal(clock.listening(), 20 * TICK_INTERVAL);
  clock.stop();
  at.monotonic += 3_600_000;
  t.mock.timers.tick(3_600_000);
  assert.equal(clock.listening(), 20 * TICK_INTERVAL + MAX_STEP);
});

test('a gap is recorded when it ends: after a stop, after a suspend that only the wall clock shows, and between two runs', () => {
  const { at, clock } = setUp();
  assert.equal(clock.lastGap(), undefined, 'the first run of a registry follows no gap');
  at.monotonic += TICK_INTERVAL;
  at.wall += TICK_INTERVAL;
  clock.tick();
  assert.equal(clock.lastGap(), undefined);
  at.monotonic += 60_000;
  at.wall += 60_000;
  const stop = { endedAt: TICK_INTERVAL + MAX_STEP, certainFrom: TICK_INTERVAL + MAX_STEP + QUEUE_TIME };
  assert.deepEqual(clock.lastGap(), stop, 'known before the late tick');
  at.monotonic += TICK_INTERVAL;
  at.wall += 3_600_000;
  assert.equal(clock.lastGap(), clock.lastGap(), 'the same object until the next gap');
  clock.tick();
  assert.deepEqual(clock.lastGap(), {
    endedAt: TICK_INTERVAL + MAX_STEP,
    certainFrom: 2 * TICK_INTERVAL + MAX_STEP + QUEUE_TIME,
  });
});

test('after a restart each heartbeat is certain, because no request waits while the sockets are closed', () => {
  assert.deepEqual(setUp(7000).clock.lastGap(), { endedAt: 7000, certainFrom: 7000 });
});
