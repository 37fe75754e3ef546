import assert from 'node:assert/strict';
import test from 'node:test';
import { VmIndex } from '../../../daemon/registry/vm-index.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import type { Registration } from '../../../src/protocol/vm.ts';
import { aVm } from '../../helpers/vm.ts';

function entry(id: string, created: number, more: Partial<Registration> = {}, heardAt = 0): VmRecord {
  const vm = { ...aVm({ id, ...more }), registeredAt: new Date(created).toISOString() };
  return new VmRecord(vm, { created, revision: created }, { lastSeen: heardAt, heardAt });
}

const ids = (entries: Iterable<VmRecord>) => [...entries].map(({ vm }) => vm.id).join('');

test('lists are newest first and live ones oldest first, in the order of registration', () => {
  const directory = new VmIndex();
  for (const [i, id] of ['a', 'b', 'c'].entries()) directory.put(entry(id, i));
  assert.equal(ids(directory.list({}, 0)), 'cba');
  assert.equal(ids(directory.list({ role: 'worker' }, 0)), 'cba');
  assert.equal(ids(directory.live('worker', 0)), 'abc');
  assert.equal(ids(directory.all()), 'abc');
  assert.equal([...directory.all()].length, 3);
});

test('an entry that is put again keeps its place, and one that was removed goes to the end', () => {
  const directory = new VmIndex();
  for (const [i, id] of ['a', 'b', 'c'].entries()) directory.put(entry(id, i));
  const again = entry('a', 0, { name: 'two' });
  directory.put(again);
  assert.equal(ids(directory.live('worker', 0)), 'abc');
  assert.equal(directory.get('a'), again);
  directory.remove(again);
  assert.equal(directory.get('a'), undefined);
  assert.equal(ids(directory.list({}, 0)), 'cb');
  directory.put(entry('a', 3));
  assert.equal(ids(directory.list({}, 0)), 'acb');
});

test('an entry that changes its role leaves the one and takes its place in the other', () => {
  const directory = new VmIndex();
  for (const [i, id] of ['a', 'b', 'c', 'd'].entries())
    directory.put(entry(id, i, { role: i % 2 ? 'infra' : 'worker' }));
  directory.put(entry('c', 2, { role: 'infra' }));
  assert.equal(ids(directory.live('worker', 0)), 'a');
  assert.equal(ids(directory.live('infra', 0)), 'bcd');
  directory.put(entry('c', 2, { role: 'worker' }));
  assert.equal(ids(directory.live('worker', 0)), 'ac');
  assert.equal(ids(directory.list({ role: 'infra' }, 0)), 'db');
  directory.remove(entry('c', 2, { role: 'worker' }));
  assert.equal(ids(directory.live('worker', 0)), 'a');
});

test('a thousand changes of role cost one sort of the role, and not one each', () => {
  const directory = new VmIndex();
  let looks = 0;
  for (let i = 0; i < 2000; i++) {
    const each = entry(`vm-${i}`, i);
    const { version } = each;
    Object.defineProperty(each, 'order', {
      get: () => {
        looks++;
        return version;
      },
    });
    directory.put(each);
  }
  for (let i = 0; i < 1000; i++) {
    directory.put(entry(`vm-${i}`, i, { role: 'infra' }));
    directory.put(entry(`vm-${i}`, i));
  }
  assert.equal(looks, 0, 'until somebody reads');
  assert.deepEqual(
    directory.live('worker', 0).map(({ version }) => version.created),
    Array.from({ length: 2000 }, (_, i) => i),
  );
});

test('status=running leaves out who was heard before the horizon; other filters do not look at that', () => {
  const directory = new VmIndex();
  directory.put(entry('a', 0, {}, 9));
  directory.put(entry('b', 1, {}, 10));
  directory.put(entry('c', 2, { status: 'paused' }, 9));
  assert.equal(ids(directory.list({ status: 'running' }, 10)), 'b');
  assert.equal(ids(directory.live('worker', 10)), 'b');
  assert.equal(ids(directory.list({ status: 'paused' }, 10)), 'c');
  assert.equal(ids(directory.list({}, 10)), 'cba');
  assert.equal(ids(directory.list({ role: 'nobody' }, 0)), '');
});
