/** Which VMs of a cached list are uncertain, compared with a list that caches nothing. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { Part, uncertaintyOf } from '../../../daemon/registry/vm-snapshot.ts';
import { randomOf } from '../../helpers/random.ts';
import { tagAt } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

const LEASE = 100;

function entry(n: number): VmRecord {
  const vm = { ...aVm({ id: `vm-${n}`, status: n % 5 === 4 ? 'paused' : 'running' }), registeredAt: '2026-01-01' };
  return new VmRecord(vm, { created: n, revision: n, tag: tagAt(n) }, { lastSeen: n, heardAt: n });
}

test('heartbeats, gaps and expired leases leave the cached uncertainty of a part equal to the computed one', (t) => {
  const random = randomOf(t);
  for (let run = 0; run < 100; run++) {
    const entries = Array.from({ length: 8 }, (_, n) => entry(n));
    for (const each of entries) if (random.below(4) === 0) each.markSuspect(each.heardAt + 20);
    const part = new Part(entries);
    let certainFrom = 10;
    for (let now = 8; now < 250; now += random.below(12)) {
      if (random.below(20) === 0) certainFrom = now + random.below(10);
      // The registry replaces the part when a suspect VM is heard.
      const heard = entries.filter(({ isSuspect }) => !isSuspect && random.below(10) === 0);
      for (const each of heard) each.touch({ lastSeen: now, heardAt: now });
      const expected = uncertaintyOf(entries, certainFrom, now - LEASE);
      const { leaseFrom, last, suspects } = part.uncertainty(certainFrom, now, now - LEASE);
      assert.equal(leaseFrom, expected.leaseFrom);
      assert.equal(last === undefined, expected.last === undefined);
      // A sweep replaces the part when the lease of a suspect VM expires.
      if (entries.every((each) => !each.isSuspect || each.leaseFrom >= now - LEASE))
        assert.equal(suspects, expected.suspects);
    }
  }
});

test('reading an unchanged list while the registry is warming examines one VM per part', () => {
  const entries = Array.from({ length: 200 }, (_, n) => entry(n));
  let examined = 0;
  for (const each of entries) {
    const { isSuspect } = each;
    Object.defineProperty(each, 'isSuspect', {
      get: () => {
        examined++;
        return isSuspect;
      },
    });
  }
  const part = new Part(entries);
  const read = () => part.uncertainty(1000, 1001, 0);
  const first = read();
  assert.equal(first.last, entries[198]);
  examined = 0;
  assert.equal(read(), first);
  assert.equal(examined, 1);
  entries[198]!.touch({ lastSeen: 1001, heardAt: 1001 });
  assert.equal(read().last, entries[197]);
});
