/** The limits of one registry, at their edges. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { RegistryLimits } from '../../../daemon/registry/capacity.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { aVm } from '../../helpers/vm.ts';

const GENEROUS: RegistryLimits = { maxVms: 1000, maxEntry: 1_000_000 };

function registryWith(limits: Partial<RegistryLimits>, store = new GatedStore()) {
  const options = { store, clock: new FakeClock(), staleAfter: 1000, limits: { ...GENEROUS, ...limits } };
  return { store, registry: new Registry(options, store.contents()) };
}

const full = (field: string) => ({ code: 'TOO_MANY_REQUESTS', field });

test('an entry may be exactly as large as the limit, and not a byte larger', async () => {
  const { registry: measure, store } = registryWith({});
  const vm = aVm({ metadata: { pad: 'ü' } });
  const measured = measure.register(vm);
  await store.release(1);
  const { size, json } = await measured;
  assert.equal(size, Buffer.byteLength(json));
  const exact = registryWith({ maxEntry: size });
  const registered = exact.registry.register(vm);
  await exact.store.release(1);
  await registered;
  const { registry } = registryWith({ maxEntry: size - 1 });
  await assert.rejects(registry.register(vm), {
    code: 'TOO_LARGE',
    field: 'metadata',
    message: `the entry is too large: ${size} bytes of JSON (limit ${size - 1} bytes)`,
  });
});

test('all entries together may be exactly as large as the limit, including entries that are being committed', async () => {
  const { registry: measure, store: first } = registryWith({});
  const one = measure.register(aVm({ id: 'a' }));
  await first.release(1);
  const { weight } = await one;
  const { registry, store } = registryWith({ maxTotal: 2 * weight });
  const two = ['a', 'b'].map((id) => registry.register(aVm({ id })));
  await assert.rejects(registry.register(aVm({ id: 'c' })), full('metadata'));
  await assert.rejects(registry.update('a', { name: 'longer' }), full('metadata'));
  await store.release(2);
  await Promise.all(two);
  await assert.rejects(registry.register(aVm({ id: 'c' })), full('metadata'));
  await assert.rejects(registry.replace(aVm({ id: 'b', metadata: { more: 1 } })), full('metadata'));
  // Changes that do not grow the registry, and removals, are always accepted.
  const same = registry.update('a', { name: 'two' });
  const gone = registry.deregister('b');
  const third = registry.register(aVm({ id: 'c' }));
  await store.release(3);
  await Promise.all([same, gone, third]);
  assert.deepEqual(
    registry.list({}).map(({ vm }) => vm.id),
    ['c', 'a'],
  );
});

test('a change that the disk refused does not count against the limit', async () => {
  const { registry, store } = registryWith({ maxTotal: 2000 });
  for (let n = 0; n < 5; n++) {
    const refused = registry.register(aVm({ id: `vm-${n}` }));
    store.fail(new Error('no disk'));
    await assert.rejects(refused, /no disk/);
  }
  const taken = registry.register(aVm());
  await store.release(1);
  await taken;
});

test('a store that exceeds the limits is served, and only growth is refused', async () => {
  const { registry: before, store } = registryWith({});
  const all = ['a', 'b', 'c'].map((id) => before.register(aVm({ id })));
  await store.release(3);
  await Promise.all(all);
  const { registry } = registryWith({ maxVms: 1, maxTotal: 10 }, store);
  assert.equal(registry.list({}).length, 3);
  await assert.rejects(registry.register(aVm({ id: 'd' })), full('id'));
  await assert.rejects(registry.update('a', { name: 'longer' }), full('metadata'));
  const same = registry.update('a', { status: 'stopped' });
  await store.release(1);
  assert.equal((await same).vm.status, 'stopped');
});
