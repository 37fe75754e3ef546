import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { openTestStore, reopen } from '../../helpers/test-store.ts';
import { aVm } from '../../helpers/vm.ts';

async function family(...pairs: [id: string, parentId?: string][]) {
  const clock = new FakeClock();
  const store = await openTestStore(() => clock.wall);
  const registry = new Registry({ store, clock, staleAfter: 1000 }, store.contents());
  for (const [id, parentId] of pairs) {
    await registry.register(aVm({ id, ...(parentId === undefined ? {} : { parentId }) }));
  }
  const ids = (of: 'children' | 'ancestors' | 'subtree', id: string) =>
    registry.lineage[of](id)
      .map(({ vm }) => vm.id)
      .join(' ');
  return { registry, store, ids };
}

test('children are in the order of registration, ancestors nearest first, and subtrees depth first', async () => {
  const { ids } = await family(['root'], ['b', 'root'], ['a', 'root'], ['b1', 'b'], ['a1', 'a'], ['b2', 'b']);
  assert.equal(ids('children', 'root'), 'b a');
  assert.equal(ids('ancestors', 'b2'), 'b root');
  assert.equal(ids('subtree', 'root'), 'root b b1 b2 a a1');
  assert.equal(ids('children', 'b2'), '');
  assert.equal(ids('subtree', 'b2'), 'b2');
});

test('a parent need not be registered and may be removed; an id that is neither registered nor a parent is not found', async () => {
  const { registry, ids } = await family(['a', 'gone'], ['b', 'a']);
  assert.equal(ids('subtree', 'gone'), 'a b');
  assert.equal(ids('ancestors', 'b'), 'a');
  assert.equal(ids('ancestors', 'gone'), '');
  await registry.deregister('a');
  assert.equal(ids('children', 'a'), 'b');
  assert.throws(() => ids('children', 'gone'), { code: 'NOT_FOUND' });
  assert.throws(() => ids('ancestors', 'gone'), { code: 'NOT_FOUND' });
});

test('VMs that are their own ancestors are each returned once', async () => {
  const { ids } = await family(['a', 'b'], ['b', 'c'], ['c', 'a']);
  assert.equal(ids('subtree', 'a'), 'a c b');
  assert.equal(ids('ancestors', 'a'), 'b c');
});

test('a replaced entry has its new parent, also after a restart', async () => {
  const { registry, store } = await family(['a'], ['b'], ['x', 'a']);
  await registry.replace(aVm({ id: 'x', parentId: 'b' }));
  const durable = await reopen(store);
  const again = new Registry({ store: durable, clock: new FakeClock(), staleAfter: 1000 }, durable.contents());
  for (const { lineage } of [registry, again]) {
    assert.deepEqual(lineage.children('a'), []);
    assert.deepEqual(
      lineage.children('b').map(({ vm }) => vm.id),
      ['x'],
    );
  }
  await again.update('x', { name: 'other' });
  assert.equal(again.get('x').vm.parentId, 'b');
});
