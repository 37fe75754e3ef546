import assert from 'node:assert/strict';
import test from 'node:test';
import { Entry } from '../../../daemon/registry/entry.ts';
import { Leases } from '../../../daemon/registry/leases.ts';
import { aVm } from '../../helpers/vm.ts';

function entry(id: string, heardAt: number): Entry {
  return new Entry(
    { ...aVm({ id }), registeredAt: '2026-01-01T00:00:00.000Z' },
    { created: 1, revision: 1 },
    { lastSeen: heardAt, heardAt },
  );
}

const ids = (entries: readonly Entry[]) => entries.map(({ vm }) => vm.id).join('');

test('a sweep finds each that ran out once, longest silent first', () => {
  const leases = new Leases();
  leases.load([entry('b', 20), entry('a', 10), entry('c', 30)], 0);
  assert.equal(ids(leases.sweep(10)), '');
  assert.equal(ids(leases.sweep(25)), 'ab');
  assert.equal(ids(leases.sweep(25)), '');
  assert.equal(ids(leases.sweep(31)), 'c');
});

test('who is stale at the start is not told as that, and is revived when heard', () => {
  const leases = new Leases();
  const silent = entry('a', 10);
  leases.load([silent], 11);
  assert.equal(ids(leases.sweep(100)), '');
  silent.hear({ lastSeen: 200, heardAt: 200 });
  assert.equal(leases.heard(silent), true);
  assert.equal(leases.heard(silent), false);
  assert.equal(ids(leases.sweep(201)), 'a');
});

test('who is heard goes behind the others', () => {
  const leases = new Leases();
  const [a, b] = [entry('a', 10), entry('b', 20)];
  leases.load([a, b], 0);
  a.hear({ lastSeen: 30, heardAt: 30 });
  assert.equal(leases.heard(a), false);
  assert.equal(ids(leases.sweep(25)), 'b');
  assert.equal(ids(leases.sweep(31)), 'a');
});

test('an entry that replaces another without a sign of life keeps its place, and one that is stale stays it', () => {
  const leases = new Leases();
  leases.load([entry('a', 10), entry('b', 20)], 0);
  const other = entry('a', 10);
  leases.replace(other);
  assert.deepEqual(leases.sweep(15), [other]);
  leases.replace(entry('a', 10));
  assert.equal(ids(leases.sweep(15)), '');
  assert.equal(leases.heard(other), true);
});

test('who is forgotten is neither stale nor revived, also when the id comes back', () => {
  const leases = new Leases();
  leases.load([entry('a', 10), entry('b', 10)], 0);
  leases.forget('a');
  assert.equal(ids(leases.sweep(15)), 'b');
  leases.forget('b');
  assert.equal(leases.heard(entry('b', 20)), false);
});
