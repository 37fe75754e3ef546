import assert from 'node:assert/strict';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { EventLoopMonitor } from '../../../daemon/observability/event-loop.ts';
import { until } from '../../helpers/until.ts';

/** Blocks the event loop. */
function block(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

test('a block of 60 ms is seen by every scraper for a minute, and forgotten after two', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const monitor = new EventLoopMonitor();
  t.after(() => monitor.stop());
  await until('the first measurement', async () => {
    await setImmediate();
    return monitor.delays.p50 > 0 || monitor.delays.max > 0;
  });
  block(60);
  await until('the block to be measured', async () => {
    await setImmediate();
    return monitor.delays.max >= 0.045;
  });
  const { max } = monitor.delays;
  assert.equal(monitor.delays.max >= max, true);
  t.mock.timers.tick(60_000);
  assert.ok(monitor.delays.max >= max);
  t.mock.timers.tick(60_000);
  assert.deepEqual(monitor.delays, { p50: 0, p99: 0, max: 0 });
});
