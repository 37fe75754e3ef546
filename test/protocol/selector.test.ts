import assert from 'node:assert/strict';
import test from 'node:test';
import { SORTS } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { comparison, parseSelector } from '../../src/protocol/selector.ts';

const holds = (selector: string, metadata?: Record<string, unknown>) =>
  parseSelector(selector)(metadata === undefined ? {} : { metadata });

test('key=value and key==value match if the value, as text, is equal', () => {
  for (const selector of ['env=prod', 'env==prod', ' env = prod ', 'env= prod']) {
    assert.equal(holds(selector, { env: 'prod' }), true, selector);
    assert.equal(holds(selector, { env: 'test' }), false, selector);
    assert.equal(holds(selector, {}), false, selector);
    assert.equal(holds(selector), false, selector);
  }
  assert.equal(holds('n=5', { n: 5 }), true);
  assert.equal(holds('n=true', { n: true }), true);
  assert.equal(holds('n=null', { n: null }), true);
  assert.equal(holds('n=[1]', { n: [1] }), true);
  assert.equal(holds('n={"a":1}', { n: { a: 1 } }), true);
  assert.equal(holds('url=a=b!c', { url: 'a=b!c' }), true);
  assert.equal(holds('empty=', { empty: '' }), true);
  assert.equal(holds('empty=', {}), false);
});

test('key!=value matches if the value differs or is missing', () => {
  assert.equal(holds('env!=prod', { env: 'test' }), true);
  assert.equal(holds('env!=prod'), true);
  assert.equal(holds('env!=prod', { env: 'prod' }), false);
  assert.equal(holds('env!=', { env: '' }), false);
});

test('key matches if the key exists, and !key if it does not, whatever the value', () => {
  for (const value of ['x', '', null, 0, false]) {
    assert.equal(holds('env', { env: value }), true);
    assert.equal(holds('!env', { env: value }), false);
  }
  assert.equal(holds('env', {}), false);
  assert.equal(holds('!env'), true);
});

test('properties that every object inherits are not metadata keys', () => {
  for (const key of ['constructor', 'toString', '__proto__']) assert.equal(holds(key, {}), false, key);
});

test('a selector matches if all its terms match', () => {
  assert.equal(holds('a=1,b!=2,c,!d', { a: '1', b: '3', c: 0 }), true);
  assert.equal(holds('a=1,b!=2,c,!d', { a: '1', b: '3', c: 0, d: 0 }), false);
  assert.equal(holds('a=1 , b=2', { a: '1', b: '2' }), true);
  assert.equal(holds('a=1,a=2', { a: '1' }), false);
});

test('an invalid term is an error that quotes it', () => {
  for (const [selector, term] of [
    ['', ''],
    [',', ''],
    ['a=1,', ''],
    ['=x', '=x'],
    ['!', '!'],
    ['!!a', '!!a'],
    ['!a=b', '!a=b'],
    ['ok,a b', 'a b'],
    ['a!b', 'a!b'],
    ['a!', 'a!'],
  ] as const) {
    assert.throws(
      () => parseSelector(selector),
      (error) =>
        error instanceof VregError &&
        error.code === 'INVALID' &&
        error.field === 'selector' &&
        error.message.includes(`"${term}"`),
      selector,
    );
  }
});

test('each sort order uses its field; seen sorts the most recent first, and registered keeps the order of the list', () => {
  const vms = [
    { id: 'b', name: 'z', role: 'worker', lastSeen: '2026-01-01T00:00:00.000Z' },
    { id: 'B', name: 'y', role: 'infra', lastSeen: '2026-01-03T00:00:00.000Z' },
    { id: 'a', name: 'x', role: 'golden', lastSeen: '2026-01-02T00:00:00.000Z' },
  ] as const;
  const sorted = SORTS.map((sort) => {
    const order = comparison(sort);
    return [sort, (order ? [...vms].sort(order) : vms).map(({ id }) => id).join('')];
  });
  assert.deepEqual(Object.fromEntries(sorted), { registered: 'bBa', id: 'Bab', name: 'aBb', role: 'aBb', seen: 'Bab' });
});

test('a selector has at most 32 terms', () => {
  const terms = (count: number) => Array.from({ length: count }, (_, n) => `!key${n}`).join(',');
  assert.equal(holds(terms(32), { env: 'prod' }), true);
  assert.throws(() => parseSelector(terms(33)), /^VregError: too many selector terms: 33 \(limit 32\)/);
});

test('an object is compared as its JSON', () => {
  assert.equal(holds('n=x', { n: { a: 1 } }), false);
  assert.equal(holds('n!=x', { n: [1] }), true);
  assert.equal(holds('n={}', { n: {} }), true);
  assert.equal(holds('n=[object Object]', { n: {} }), false);
});

test('a value may contain newlines, and long runs of spaces are parsed in linear time', () => {
  assert.equal(holds('note=a\nb', { note: 'a\nb' }), true);
  assert.equal(holds('note!=\n a\nb', { note: 'a\nb' }), false);
  // As long as a URL may be. A pattern that tries each blank anew takes a minute for these.
  const blanks = ' '.repeat(16_000);
  for (let n = 0; n < 150; n++) {
    assert.equal(holds(`note=${blanks}a\nb`, { note: 'a\nb' }), true);
    assert.equal(holds(`note${blanks}= a${blanks}\nb`, { note: 'a\nb' }), false);
    assert.throws(() => parseSelector(`note${blanks}b`), { code: 'INVALID', field: 'selector' });
  }
});
