/** The order of registration in blocks, and the cached lists of its VMs, compared with a plain array. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { VmOrder } from '../../../daemon/registry/vm-order.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { MAX_LAG, type Snapshot } from '../../../daemon/registry/vm-snapshot.ts';
import { tagAt } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

function entry(created: number, { name = 'one', pad = 0, heardAt = 0 } = {}): VmRecord {
  const metadata = pad > 0 ? { pad: 'ü'.repeat(pad) } : undefined;
  const vm = { ...aVm({ id: `vm-${created}`, name, ...(metadata && { metadata }) }), registeredAt: '2026-01-01' };
  return new VmRecord(vm, { created, revision: created, tag: tagAt(created) }, { lastSeen: heardAt, heardAt });
}

const createdOf = (entries: Iterable<VmRecord>) => Array.from(entries, ({ version }) => version.created);
const isPaused = ({ name }: VmRecord) => name === 'two';

function textOf(snapshot: Snapshot, now = 0): string {
  return snapshot.parts
    .map((part) => {
      const encoded = part.acquire(now);
      encoded.readers--;
      return encoded.bytes.toString();
    })
    .join('')
    .slice(1);
}

const jsonOf = (entries: readonly VmRecord[]) => entries.map(({ json }) => json).join(',');

type Step =
  | { put: number; name: string; pad: number }
  | { remove: number }
  | { append: number }
  /** `removeFrom` is a percentage of the fleet. */
  | { removeFrom: number; count: number };

/** Removes neighbors anywhere in the fleet, so that blocks shrink and merge with the block before or behind them. */
const removal = fc.record({
  removeFrom: fc.integer({ min: 0, max: 99 }),
  count: fc.integer({ min: 1, max: 100 }),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    put: fc.integer({ min: 1, max: 2000 }),
    name: fc.constantFrom('one', 'two'),
    pad: fc.constantFrom(0, 0, 0, 70_000, 200_000),
  }),
  fc.record({ remove: fc.integer({ min: 1, max: 2000 }) }),
  fc.record({ append: fc.integer({ min: 1, max: 600 }) }),
  removal,
);

test('any mix of additions, replacements and removals leaves the order and the lists of a sorted array', () => {
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 30 }),
      fc.array(removal, { minLength: 10, maxLength: 30 }),
      (changes, removals) => {
        const order = new VmOrder(() => '');
        const model = new Map<number, VmRecord>();
        let newest = 2000;
        const put = (each: VmRecord) => {
          order.put(each);
          model.set(each.version.created, each);
        };
        const remove = (created: number) => {
          order.remove(entry(created));
          model.delete(created);
        };
        for (const each of [...changes, { append: 600 }, ...removals]) {
          if ('put' in each) put(entry(each.put, each));
          else if ('append' in each) for (let n = 0; n < each.append; n++) put(entry(++newest));
          else if ('remove' in each) remove(each.remove);
          else {
            const start = Math.floor((each.removeFrom / 100) * order.size);
            for (const created of createdOf(order).slice(start, start + each.count)) remove(created);
          }
          const sorted = [...model.values()].sort((a, b) => a.version.created - b.version.created);
          assert.deepEqual(createdOf(order), createdOf(sorted));
          assert.equal(order.size, sorted.length);
          assert.equal(textOf(order.snapshot('all', isPaused)), jsonOf(sorted.toReversed()));
          assert.equal(textOf(order.snapshot('live', isPaused)), jsonOf(sorted.filter(isPaused)));
          const middle = sorted[sorted.length >> 1]?.version.created ?? 7;
          for (const before of [0, middle, middle + 1, Number.POSITIVE_INFINITY]) {
            const expected = sorted.filter(({ version }) => version.created < before).reverse();
            assert.deepEqual(createdOf(order.registeredBefore(before)), createdOf(expected));
          }
        }
      },
    ),
    // Shrinking a counterexample takes minutes; its seed repeats it.
    { numRuns: 60, endOnFailure: true },
  );
});

function filled(count: number): { order: VmOrder; entries: VmRecord[] } {
  const order = new VmOrder(() => '');
  const entries = Array.from({ length: count }, (_, n) => entry(n + 1));
  for (const each of entries) order.put(each);
  return { order, entries };
}

test('a list that was read between removals contains the VMs of blocks that have merged', () => {
  const { order, entries } = filled(300);
  const read = () => createdOf(order.snapshot('all', isPaused).parts.flatMap((part) => part.entries));
  for (const each of entries.slice(0, 156)) order.remove(each);
  assert.equal(read().length, 144);
  for (const each of entries.slice(256, 272)) order.remove(each);
  assert.deepEqual(read(), createdOf(order).reverse());
});

test('a change replaces one part of a list, and all other parts stay the same', () => {
  const { order } = filled(2000);
  const before = order.snapshot('all', isPaused);
  assert.equal(order.snapshot('all', isPaused), before);
  assert.ok(before.parts.length >= 7);
  order.put(entry(1000, { name: 'new' }));
  const after = order.snapshot('all', isPaused);
  assert.equal(after.parts.filter((part) => !before.parts.includes(part)).length, 1);
  assert.match(textOf(after), /"name":"new"/);
  assert.doesNotMatch(textOf(before), /"name":"new"/);
});

test('the times in a list lag by less than a second, and bytes that a socket still reads do not change', () => {
  const { order, entries } = filled(2);
  const [part] = order.snapshot('all', isPaused).parts;
  const first = part!.acquire(0);
  const text = first.bytes.toString();
  entries[0]!.touch({ lastSeen: 5000, heardAt: 1 });
  assert.equal(part!.acquire(MAX_LAG - 1), first);
  first.readers--;
  const second = part!.acquire(MAX_LAG);
  second.readers--;
  assert.notEqual(second, first);
  assert.match(second.bytes.toString(), /1970-01-01T00:00:05\.000Z/);
  assert.equal(first.bytes.toString(), text);
  entries[1]!.touch({ lastSeen: 6000, heardAt: MAX_LAG });
  const third = part!.acquire(2 * MAX_LAG);
  assert.equal(third.bytes, second.bytes, 'bytes that nobody reads are reused');
  assert.equal(third.bytes.toString(), `,${entries[1]!.json},${entries[0]!.json}`);
});

test('an outdated part does not retain its JSON, and a list that nobody reads is encoded again', () => {
  const { order } = filled(2);
  const [part] = order.snapshot('all', isPaused).parts;
  const encoded = part!.acquire(0);
  order.limit(29_999, 10_000);
  assert.equal(part!.acquire(0), encoded);
  order.limit(30_000, 10_000);
  const again = part!.acquire(30_500);
  assert.notEqual(again, encoded);
  order.limit(30_500, 10_000);
  assert.equal(part!.acquire(30_500), again);
  order.limit(60_500, 10_000);
  assert.notEqual(part!.acquire(60_500), again, 'JSON that a slow reader has cached again is freed too');
  order.put(entry(3));
  assert.notEqual(part!.acquire(0), part!.acquire(0));
  assert.equal(part!.acquire(0).bytes.toString(), encoded.bytes.toString());
});

test('cached JSON that exceeds the limit is freed, and the rest is retained', () => {
  const { order } = filled(2000);
  const { parts } = order.snapshot('all', isPaused);
  const encoded = parts.map((part) => part.acquire(0));
  const max = 3 * parts[0]!.size;
  assert.ok(order.limit(0, max) >= 0);
  const retained = parts.filter((part, n) => part.acquire(0) === encoded[n]);
  assert.ok(retained.length > 0 && retained.length < parts.length);
  assert.ok(retained.reduce((sum, { size }) => sum + size, 0) <= max);
});

test('the stamp stays the same until a change, and differs from that of a copy with as many changes', () => {
  let moment = 'a';
  const order = new VmOrder(() => moment);
  order.put(entry(1));
  const first = order.stamp;
  moment = 'b';
  assert.equal(order.stamp, first);
  assert.equal(order.snapshot('all', isPaused).stamp, first);
  order.invalidate(entry(1));
  assert.notEqual(order.stamp, first);
  assert.equal(order.snapshot('all', isPaused).stamp, order.stamp);
  const copy = new VmOrder(() => moment);
  copy.put(entry(1));
  assert.notEqual(copy.stamp, first);
});
