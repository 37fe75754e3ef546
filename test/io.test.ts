import assert from 'node:assert/strict';
import test from 'node:test';
import { escapeControls, printable, wantsColor } from '../src/io.ts';

const COLOR: readonly [env: NodeJS.ProcessEnv, onTty: boolean, piped: boolean][] = [
  [{}, true, false],
  [{ NO_COLOR: '1' }, false, false],
  [{ NO_COLOR: '' }, true, false],
  [{ NO_COLOR: '1', FORCE_COLOR: '1' }, false, false],
  [{ FORCE_COLOR: '1' }, true, true],
  [{ FORCE_COLOR: '0' }, false, false],
  [{ CLICOLOR_FORCE: '1' }, true, true],
  [{ CLICOLOR_FORCE: '0' }, true, false],
  [{ CLICOLOR: '0' }, false, false],
  [{ CLICOLOR: '1' }, true, false],
  [{ TERM: 'dumb' }, false, false],
  [{ TERM: 'dumb', FORCE_COLOR: '3' }, true, true],
];

for (const [env, onTty, piped] of COLOR) {
  const says =
    Object.entries(env)
      .map(([name, value]) => `${name}=${value}`)
      .join(' ') || 'nothing';
  test(`with ${says} there is ${onTty ? '' : 'no '}colour on a terminal and ${piped ? '' : 'none '}in a pipe`, () => {
    assert.equal(wantsColor(env, true), onTty);
    assert.equal(wantsColor(env, false), piped);
  });
}

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
