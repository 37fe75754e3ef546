import assert from 'node:assert/strict';
import test from 'node:test';
import { type NewToken, parseTokenRequest } from '../../src/protocol/token.ts';

for (const [body, field] of [
  [{ scope: 'read' }, 'name'],
  [{ name: 'a b', scope: 'read' }, 'name'],
  [{ name: 'a/b', scope: 'read' }, 'name'],
  [{ name: '-a', scope: 'read' }, 'name'],
  [{ name: 'a'.repeat(65), scope: 'read' }, 'name'],
  [{ name: 'VERS_AUTH_TOKEN', scope: 'admin' }, 'name'],
  [{ name: 'Anonymous', scope: 'read' }, 'name'],
  [{ name: 7, scope: 'admin' }, 'name'],
  [{ name: 'a' }, 'scope'],
  [{ name: 'a', scope: 'root' }, 'scope'],
  [{ name: 'a', scope: ['read'] }, 'scope'],
  [{ name: 'a', scope: 'write', role: 'king' }, 'role'],
  [{ name: 'a', scope: 'write', vm: '' }, 'vm'],
  [{ name: 'a', scope: 'write', vm: 'x', role: '' }, 'role'],
  [{ name: 'a', scope: 'admin', vm: 'x', role: 'infra' }, 'vm'],
  [{ name: 'a', scope: 'admin', vm: 'x' }, 'vm'],
  [{ name: 'a', scope: 'admin', role: 'infra' }, 'role'],
  [{ name: 'a', scope: 'read', expiresIn: 0 }, 'expiresIn'],
  [{ name: 'a', scope: 'read', expiresIn: '30d' }, 'expiresIn'],
  [{ name: 'a', scope: 'read', expiresIn: 1e12 }, 'expiresIn'],
  [[], 'body'],
] as const) {
  test(`${JSON.stringify(body).slice(0, 70)} is an invalid token request: ${field}`, () => {
    assert.throws(() => parseTokenRequest(body), { code: 'INVALID', field });
  });
}

test('a name cannot contain a token', () => {
  for (const name of ['vreg_x', `x-vreg_${'a'.repeat(43)}`])
    assert.throws(() => parseTokenRequest({ name, scope: 'read' }), { code: 'INVALID', field: 'name' }, name);
  assert.equal(parseTokenRequest({ name: 'my-vreg_reader', scope: 'read' }).name, 'my-vreg_reader');
});

test('a token request is parsed with its restriction', () => {
  const made: Partial<NewToken> = { name: 'a', scope: 'enrol', role: 'worker' };
  assert.deepEqual(parseTokenRequest({ ...made, vm: null, extra: 1 }), made);
});
