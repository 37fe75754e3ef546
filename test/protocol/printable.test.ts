import assert from 'node:assert/strict';
import test from 'node:test';
import { escapeControls, printable } from '../../src/protocol/printable.ts';

test('no character of the kinds that terminals obey is printable', () => {
  for (let code = 0; code < 0x20; code++) assert.equal(printable(String.fromCharCode(code)), '\ufffd');
  for (let code = 0x7f; code < 0xa0; code++) assert.equal(printable(String.fromCharCode(code)), '\ufffd');
  for (const character of '\u2028\u2029\u202a\u202e\u2066\u2069') assert.equal(printable(character), '\ufffd');
});

test('letters of all scripts are printable', () => {
  const text = 'aé 漢字 עברית 👩‍💻 \u00a0~';
  assert.equal(printable(text), text);
});

test('what is escaped in JSON is the same value', () => {
  const value = { name: 'a\u001b\u007f\u009b\u2028\u202eb' };
  const json = escapeControls(JSON.stringify(value));
  assert.match(json, /^[ -~]+$/);
  assert.deepEqual(JSON.parse(json), value);
});
