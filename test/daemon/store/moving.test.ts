import assert from 'node:assert/strict';
import test from 'node:test';
import { convertRecord } from '../../../daemon/store/moving.ts';
import type { StoredRecord } from '../../../daemon/store/store.ts';

function converted(kind: StoredRecord['kind'], body: object): unknown {
  const conversion = { revision: (created: number) => created - 100, time: (stored: number) => stored + 5000 };
  return JSON.parse(convertRecord({ kind, key: 'vm-1', body: JSON.stringify(body) }, conversion).body);
}

test('a move converts the revision of the registration in tokens, and their times are the same in both engines', () => {
  assert.deepEqual(converted('token', { name: 'vm-1', created: 7, expiresAt: 20, until: 3 }), {
    name: 'vm-1',
    created: -93,
    expiresAt: 20,
    until: 3,
  });
});

test('a move converts the times of identities and conflicts, which count listening time in one engine only', () => {
  assert.deepEqual(
    converted('identity', { created: 7, heardAt: 1, at: '2026', proven: { heardAt: 2, until: 3, token: '4.x' } }),
    { created: -93, heardAt: 5001, at: '2026', proven: { heardAt: 5002, until: 5003, token: '4.x' } },
  );
  assert.deepEqual(converted('conflict', { id: 'vm-1', refusedAt: 9 }), { id: 'vm-1', refusedAt: 5009 });
});

test('a move leaves records without such numbers as they are', () => {
  const record: StoredRecord = { kind: 'session', key: 'x', body: '{"created": 1}' };
  const fail = () => assert.fail();
  assert.equal(convertRecord(record, { revision: fail, time: fail }), record);
});
