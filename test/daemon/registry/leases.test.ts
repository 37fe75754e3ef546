import assert from 'node:assert/strict';
import test from 'node:test';
import { Leases } from '../../../daemon/registry/leases.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { randomOf } from '../../helpers/random.ts';
import { tagAt } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

function entry(id: string, heardAt: number): VmRecord {
  return new VmRecord(
    { ...aVm({ id }), registeredAt: '2026-01-01T00:00:00.000Z' },
    { created: 1, revision: 1, tag: tagAt(1) },
    { lastSeen: heardAt, heardAt },
  );
}

const staleAt = (leases: Leases, horizon: number) => leases.sweep(horizon).stale;

const ids = (entries: readonly VmRecord[]) => entries.map(({ vm }) => vm.id).join('');

test('a sweep returns each expired lease once, longest silent first', () => {
  const leases = new Leases(1000);
  leases.load([entry('b', 20), entry('a', 10), entry('c', 30)], 0);
  assert.equal(ids(staleAt(leases, 10)), '');
  assert.equal(ids(staleAt(leases, 25)), 'ab');
  assert.equal(ids(staleAt(leases, 25)), '');
  assert.equal(ids(staleAt(leases, 31)), 'c');
});

test('a VM that is stale at start is not reported again, and is revived by a heartbeat', () => {
  const leases = new Leases(1000);
  const silent = entry('a', 10);
  leases.load([silent], 11);
  assert.equal(ids(staleAt(leases, 100)), '');
  silent.touch({ lastSeen: 200, heardAt: 200 });
  assert.equal(leases.renew(silent), true);
  assert.equal(leases.renew(silent), false);
  assert.equal(ids(staleAt(leases, 201)), 'a');
});

test('a heartbeat moves a VM to the end of the order', () => {
  const leases = new Leases(1000);
  const [a, b] = [entry('a', 10), entry('b', 20)];
  leases.load([a, b], 0);
  a.touch({ lastSeen: 30, heardAt: 30 });
  assert.equal(leases.renew(a), false);
  assert.equal(ids(staleAt(leases, 25)), 'b');
  assert.equal(ids(staleAt(leases, 31)), 'a');
});

test('added VMs take their places in the order of their last signs of life, also among each other', (t) => {
  const random = randomOf(t);
  for (let run = 0; run < 200; run++) {
    const leases = new Leases(1000);
    const times = Array.from({ length: 12 }, () => random.below(10));
    const all = times.map((heardAt, n) => entry(String.fromCharCode(97 + n), heardAt));
    leases.load(all.slice(0, 5), 0);
    for (const each of all.slice(5)) {
      assert.equal(leases.add(each, 3), each.heardAt < 3);
      assert.equal(leases.isStale(each), each.heardAt < 3);
    }
    if (run % 2) staleAt(leases, random.below(10));
    leases.sort();
    const found = leases.sweep(100).stale.map(({ heardAt }) => heardAt);
    assert.deepEqual(
      found,
      found.toSorted((a, b) => a - b),
      `times ${times.join()}`,
    );
  }
});

test('an added VM that changes before all are added takes its place in the order', () => {
  const leases = new Leases(1000);
  const [a, added, changed] = [entry('a', 20), entry('b', 10), entry('b', 10)];
  leases.load([a], 0);
  leases.add(added, 0);
  leases.replace(changed, added);
  leases.sort();
  assert.equal(ids(staleAt(leases, 15)), 'b');
});

test('an entry that replaces another without a sign of life keeps its place, and a stale VM stays stale', () => {
  const leases = new Leases(1000);
  const [a, changed, changedAgain] = [entry('a', 10), entry('a', 10), entry('a', 10)];
  leases.load([a, entry('b', 20)], 0);
  leases.replace(changed, a);
  assert.deepEqual(staleAt(leases, 15), [changed]);
  leases.replace(changedAgain, changed);
  assert.equal(ids(staleAt(leases, 15)), '');
  assert.equal(leases.renew(changedAgain), true);
});

test('the end of the uncertainty after a gap is known from the oldest VM, without examining the others', () => {
  const leases = new Leases(1000);
  assert.equal(leases.uncertainUntil(Number.POSITIVE_INFINITY), undefined);
  const all = Array.from({ length: 500 }, (_, n) => entry(`v${n}`, 10 + n));
  leases.load(all, 0);
  let examined = 0;
  for (const each of all)
    Object.defineProperty(each, 'heardAt', {
      get: () => {
        examined++;
        return each.leaseFrom;
      },
    });
  assert.equal(leases.uncertainUntil(600), 1600);
  assert.equal(leases.uncertainUntil(9), undefined);
  assert.ok(examined <= 2, `examined ${examined} VMs`);
});

test('VMs that are not running are not uncertain, and suspect VMs are until their extra lease ends', () => {
  const leases = new Leases(1000, 0.5);
  const { vm, version, seen } = entry('paused', 5);
  const paused = new VmRecord({ ...vm, status: 'paused' }, version, seen);
  leases.load([paused, entry('late', 20)], 0);
  assert.equal(leases.uncertainUntil(10), undefined);
  assert.equal(leases.uncertainUntil(20), 1020);
  const fallen = new Leases(1000, 0.5);
  fallen.load(
    Array.from({ length: 10 }, (_, n) => entry(`v${n}`, n)),
    0,
  );
  assert.equal(fallen.sweep(100).suspect.length, 10);
  assert.equal(fallen.uncertainUntil(-1), 2009);
});

test('a removed VM is neither stale nor revived, even if its id is registered again', () => {
  const leases = new Leases(1000);
  const [a, b] = [entry('a', 10), entry('b', 10)];
  leases.load([a, b], 0);
  leases.forget(a);
  assert.equal(ids(staleAt(leases, 15)), 'b');
  leases.forget(b);
  assert.equal(leases.renew(entry('b', 20)), false);
});

const LEASE = 3000;
/** A fleet whose first `silent` VMs sent their last heartbeat at 0, and the others at 2500. */
function fleet(size: number, silent: number, share = 0.5) {
  const leases = new Leases(LEASE, share);
  const entries = Array.from({ length: size }, (_, n) => entry(`vm-${n}`, n < silent ? 0 : 2500));
  leases.load(entries, -LEASE);
  return { leases, entries };
}

test('when more than the share, and at least ten VMs, fall silent together, they are suspect for one lease, then stale', () => {
  const { leases, entries } = fleet(19, 10);
  const { stale, suspect } = leases.sweep(1);
  assert.deepEqual([stale.length, suspect.length], [0, 10]);
  assert.ok(entries[0]!.isSuspect);
  assert.ok(!leases.isDue(LEASE - 501));
  assert.deepEqual(ids(leases.sweep(LEASE + 1).stale.slice(0, 10)), ids(entries.slice(0, 10)));
  assert.ok(!entries[0]!.isSuspect);
});

test('exactly half of the fleet, nine VMs, or a disabled share are not a mass loss', () => {
  for (const [size, silent, share] of [
    [20, 10, 0.5],
    [9, 9, 0.5],
    [100, 100, 1],
  ] as const) {
    const { stale, suspect } = fleet(size, silent, share).leases.sweep(1);
    assert.deepEqual([stale.length, suspect.length], [silent, 0], `${silent} of ${size}`);
  }
});

test('VMs that fall silent one by one within a heartbeat interval are a mass loss from the first one on', () => {
  const leases = new Leases(LEASE, 0.5);
  leases.load(
    Array.from({ length: 12 }, (_, n) => entry(`vm-${n}`, n * 50)),
    -LEASE,
  );
  for (let n = 0; n < 12; n++) {
    const { stale, suspect } = leases.sweep(n * 50 + 1);
    assert.deepEqual([stale.length, ids(suspect)], [0, `vm-${n}`]);
  }
});

test('a heartbeat ends a suspicion, a change does not, and a paused VM is never suspect', () => {
  const { leases, entries } = fleet(12, 12);
  const paused = new VmRecord(
    { ...entry('paused', 0).vm, status: 'paused' },
    { created: 1, revision: 1, tag: tagAt(1) },
    { lastSeen: 0, heardAt: 0 },
  );
  leases.load([paused], -LEASE);
  const { stale } = leases.sweep(1);
  assert.equal(ids(stale), 'paused');
  entries[0]!.touch({ lastSeen: 2600, heardAt: 2600 });
  assert.equal(leases.renew(entries[0]!), true);
  assert.ok(!entries[0]!.isSuspect);
  const changed = entry('vm-1', 0);
  leases.replace(changed, entries[1]!);
  assert.ok(changed.isSuspect);
  assert.ok(ids(leases.sweep(LEASE + 1).stale).includes('vm-1vm-2'));
});

test('after a real scale-in the rest of the fleet is judged by itself', () => {
  const { leases, entries } = fleet(30, 20);
  assert.equal(leases.sweep(1).suspect.length, 20);
  for (const alive of entries.slice(20)) {
    alive.touch({ lastSeen: 0, heardAt: LEASE + 500 });
    leases.renew(alive);
  }
  assert.equal(leases.sweep(LEASE + 1).stale.length, 20);
  const [last] = entries.slice(29);
  for (const alive of entries.slice(20, 29)) {
    alive.touch({ lastSeen: 0, heardAt: 2 * LEASE });
    leases.renew(alive);
  }
  assert.deepEqual(leases.sweep(LEASE + 501), { stale: [last], suspect: [] });
});
