import assert from 'node:assert/strict';
import test from 'node:test';
import { VmIndex } from '../../../daemon/registry/vm-index.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import type { Registration } from '../../../src/protocol/vm.ts';
import { tagAt } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

function entry(id: string, created: number, more: Partial<Registration> = {}, heardAt = 0): VmRecord {
  const vm = { ...aVm({ id, ...more }), registeredAt: new Date(created).toISOString() };
  return new VmRecord(vm, { created, revision: created, tag: tagAt(created) }, { lastSeen: heardAt, heardAt });
}

const ids = (entries: Iterable<VmRecord>) => [...entries].map(({ vm }) => vm.id).join('');

test('lists are newest registration first, and live VMs oldest registration first', () => {
  const index = new VmIndex(() => '');
  for (const [i, id] of ['a', 'b', 'c'].entries()) index.put(entry(id, i));
  assert.equal(ids(index.list({}, 0)), 'cba');
  assert.equal(ids(index.list({ role: 'worker' }, 0)), 'cba');
  assert.equal(ids(index.live('worker', 0)), 'abc');
  assert.equal(ids(index.all()), 'abc');
  assert.equal([...index.all()].length, 3);
});

test('an entry that is replaced keeps its place, and one that was removed and added again goes to the end', () => {
  const index = new VmIndex(() => '');
  for (const [i, id] of ['a', 'b', 'c'].entries()) index.put(entry(id, i));
  const again = entry('a', 0, { name: 'two' });
  index.put(again);
  assert.equal(ids(index.live('worker', 0)), 'abc');
  assert.equal(index.get('a'), again);
  index.remove(again);
  assert.equal(index.get('a'), undefined);
  assert.equal(ids(index.list({}, 0)), 'cb');
  index.put(entry('a', 3));
  assert.equal(ids(index.list({}, 0)), 'acb');
});

test('an entry that changes its role leaves the old role and is sorted into the new one', () => {
  const index = new VmIndex(() => '');
  for (const [i, id] of ['a', 'b', 'c', 'd'].entries()) index.put(entry(id, i, { role: i % 2 ? 'infra' : 'worker' }));
  index.put(entry('c', 2, { role: 'infra' }));
  assert.equal(ids(index.live('worker', 0)), 'a');
  assert.equal(ids(index.live('infra', 0)), 'bcd');
  index.put(entry('c', 2, { role: 'worker' }));
  assert.equal(ids(index.live('worker', 0)), 'ac');
  assert.equal(ids(index.list({ role: 'infra' }, 0)), 'db');
  index.remove(entry('c', 2, { role: 'worker' }));
  assert.equal(ids(index.live('worker', 0)), 'a');
});

test('a change of role compares few VMs, however many there are', () => {
  const index = new VmIndex(() => '');
  let reads = 0;
  for (let i = 0; i < 2000; i++) {
    const each = entry(`vm-${i}`, i);
    const { version } = each;
    Object.defineProperty(each, 'version', {
      get: () => {
        reads++;
        return version;
      },
    });
    index.put(each);
  }
  reads = 0;
  for (let i = 0; i < 1000; i++) {
    index.put(entry(`vm-${i}`, i, { role: 'infra' }));
    index.put(entry(`vm-${i}`, i));
  }
  assert.ok(reads < 2000 * 50, `${reads} comparisons for 2000 changes`);
  assert.deepEqual(
    index.live('worker', 0).map(({ version }) => version.created),
    Array.from({ length: 2000 }, (_, i) => i),
  );
});

test('status=running omits VMs whose lease began before the horizon; other filters ignore the horizon', () => {
  const index = new VmIndex(() => '');
  index.put(entry('a', 0, {}, 9));
  index.put(entry('b', 1, {}, 10));
  index.put(entry('c', 2, { status: 'paused' }, 9));
  assert.equal(ids(index.list({ status: 'running' }, 10)), 'b');
  assert.equal(ids(index.live('worker', 10)), 'b');
  assert.equal(ids(index.list({ status: 'paused' }, 10)), 'c');
  assert.equal(ids(index.list({}, 10)), 'cba');
  assert.equal(ids(index.list({ role: 'nobody' }, 0)), '');
});

test('an entry whose registration is renewed moves to the end of every order', () => {
  const index = new VmIndex(() => '');
  for (const [i, id] of ['a', 'b', 'c'].entries()) index.put(entry(id, i, { parentId: 'p' }));
  index.put(entry('a', 3, { role: 'infra', parentId: 'p' }));
  index.put(entry('b', 1, { role: 'infra', parentId: 'p' }));
  assert.equal(ids(index.list({}, 0)), 'acb');
  assert.equal(ids(index.live('infra', 0)), 'ba');
  assert.equal(ids(index.list({ parentId: 'p' }, 0)), 'acb');
  assert.equal(ids(index.lineage.children('p')), 'bca');
});
