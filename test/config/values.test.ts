import assert from 'node:assert/strict';
import test from 'node:test';
import { formatAge, parseDuration } from '../../src/config/values.ts';
import { formatDuration } from '../../src/protocol/duration.ts';
import { VregError } from '../../src/protocol/errors.ts';

const READ: readonly [text: string, ms: number][] = [
  ['250ms', 250],
  ['90s', 90_000],
  ['5m', 300_000],
  ['1h30m', 5_400_000],
  ['1d', 86_400_000],
  ['1d2h3m4s5ms', 93_784_005],
  ['1.5s', 1500],
  [' 10s ', 10_000],
  ['30d', 30 * 86_400_000],
  ['3650d', 3650 * 86_400_000],
  ['5', 5000],
  ['0.5', 500],
  ['90', 90_000],
];

for (const [text, ms] of READ) {
  test(`"${text}" is ${ms} ms`, () => assert.equal(parseDuration(text, 'timeout'), ms));
}

for (const text of [
  '',
  ' ',
  '0',
  '0s',
  '-5s',
  '5 s',
  '5x',
  's',
  '1h 30m',
  '3651d',
  '1e3s',
  '5m!',
  '٥s',
  '1h30',
  '99999999999999d',
]) {
  test(`"${text}" is refused, and the error names the setting and the accepted format`, () => {
    assert.throws(
      () => parseDuration(text, 'timeout'),
      (error: VregError) => {
        assert.ok(error instanceof VregError);
        assert.equal(error.exit, 5);
        assert.equal(error.message, `invalid timeout "${text}"`);
        assert.match(error.hint!, /90s, 5m, 1h30m, 30d or 90 for seconds/);
        return true;
      },
    );
  });
}

const SHOWN: readonly [ms: number, text: string][] = [
  [-1, '0s'],
  [0, '0s'],
  [59_999, '59s'],
  [60_000, '1m'],
  [61_000, '1m1s'],
  [599_000, '9m59s'],
  [659_000, '10m'],
  [3_600_000, '1h'],
  [5_400_000, '1h30m'],
  [86_399_000, '23h59m'],
  [86_400_000, '1d'],
  [187_200_000, '2d4h'],
];

for (const [ms, text] of SHOWN) {
  test(`${ms} ms is shown as ${text}`, () => assert.equal(formatDuration(ms), text));
}

test('an age ends with "ago", and a time in the future is "just now"', () => {
  assert.equal(formatAge(180_000), '3m ago');
  assert.equal(formatAge(999), 'just now');
  assert.equal(formatAge(-60_000), 'just now');
});
