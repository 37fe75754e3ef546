import assert from 'node:assert/strict';
import test from 'node:test';
import { wantsColor } from '../src/io.ts';

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
