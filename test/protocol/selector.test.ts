import assert from 'node:assert/strict';
import test from 'node:test';
import { SORTS } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { comparison, parseSelector } from '../../src/protocol/selector.ts';

const holds = (selector: string, metadata?: Record<string, unknown>) =>
  parseSelector(selector)(metadata === undefined ? {} : { metadata });

test('key=value and key==value hold where the value is that, as text', () => {
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

test('key!=value holds where the value is another, or there is none', () => {
  assert.equal(holds('env!=prod', { env: 'test' }), true);
  assert.equal(holds('env!=prod'), true);
  assert.equal(holds('env!=prod', { env: 'prod' }), false);
  assert.equal(holds('env!=', { env: '' }), false);
});

test('key holds where it is there, !key where it is not, whatever its value', () => {
  for (const value of ['x', '', null, 0, false]) {
    assert.equal(holds('env', { env: value }), true);
    assert.equal(holds('!env', { env: value }), false);
  }
  assert.equal(holds('env', {}), false);
  assert.equal(holds('!env'), true);
});

test('a key of every object is none of the metadata', () => {
  for (const key of ['constructor', 'toString', '__proto__']) assert.equal(holds(key, {}), false, key);
});

test('terms that are joined by commas must all hold', () => {
  assert.equal(holds('a=1,b!=2,c,!d', { a: '1', b: '3', c: 0 }), true);
  assert.equal(holds('a=1,b!=2,c,!d', { a: '1', b: '3', c: 0, d: 0 }), false);
  assert.equal(holds('a=1 , b=2', { a: '1', b: '2' }), true);
  assert.equal(holds('a=1,a=2', { a: '1' }), false);
});

test('what is no term is an error that names it', () => {
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

test('each order sorts by its field; seen is last heard first, and registered is how lists come', () => {
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
  assert.throws(() => parseSelector(terms(33)), /^VregError: selector: 33 terms given, at most 32/);
});

test('what is an object is its JSON to a selector, and nothing else', () => {
  assert.equal(holds('n=x', { n: { a: 1 } }), false);
  assert.equal(holds('n!=x', { n: [1] }), true);
  assert.equal(holds('n={}', { n: {} }), true);
  assert.equal(holds('n=[object Object]', { n: {} }), false);
});

test('a value may have lines, and blanks in any number take no time to read', () => {
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
