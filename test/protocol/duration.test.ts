import assert from 'node:assert/strict';
import test from 'node:test';
import { durationOf, formatExactDuration } from '../../src/protocol/duration.ts';

test('an exact duration has each of its units, so that two of them can be compared', () => {
  for (const text of ['0s', '1ms', '500ms', '1s', '59s', '1m', '15m40s', '1h50s', '3d', '3d2h5m1s'])
    assert.equal(formatExactDuration(durationOf(text)!), text);
  assert.equal(formatExactDuration(0.2), '1ms');
  assert.equal(formatExactDuration(1999.9), '1s');
});
