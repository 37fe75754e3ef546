import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { pino } from 'pino';
import { Registry } from '../../daemon/registry/registry.ts';
import { keepSelfRegistered } from '../../daemon/self-registration.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { FakeClock } from '../helpers/clock.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import { aVm } from '../helpers/vm.ts';

const STALE_AFTER = 300_000;
const SELF = aVm({ id: 'self', role: 'infra', services: [{ name: 'registry', port: 3000 }] });

function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const store = new MemoryStore();
  const clock = new FakeClock();
  const registry = new Registry({ store, clock, staleAfter: STALE_AFTER }, store.contents());
  /** One beat later, with what it has set off done. */
  const nextBeat = async () => {
    clock.pass(STALE_AFTER / 3);
    t.mock.timers.tick(STALE_AFTER / 3);
    await new Promise(setImmediate);
  };
  const start = async () => {
    const self = await keepSelfRegistered(registry, SELF, pino({ level: 'silent' }));
    t.after(() => self.stop());
    return self;
  };
  return { store, registry, clock, nextBeat, start };
}

test('the daemon registers its own VM and keeps it live', async (t) => {
  const { registry, nextBeat, start } = setUp(t);
  const self = await start();
  assert.deepEqual(registry.get('self').vm.services, SELF.services);
  for (let beat = 0; beat < 10; beat++) await nextBeat();
  assert.equal(registry.discover('infra').length, 1);
  assert.equal(registry.revision, 1, 'a beat is no change');
  self.stop();
  for (let beat = 0; beat < 4; beat++) await nextBeat();
  assert.equal(registry.discover('infra').length, 0);
});

test('an entry that is there already is brought up to date and keeps its registration', async (t) => {
  const { registry, start } = setUp(t);
  await registry.register(aVm({ id: 'self', role: 'infra', status: 'stopped', name: 'old' }));
  await start();
  const { vm, version } = registry.get('self');
  assert.deepEqual([vm.name, vm.status, version.created, version.revision], [SELF.name, 'running', 1, 2]);
});

test('an entry that somebody removed comes back with the next beat', async (t) => {
  const { registry, nextBeat, start } = setUp(t);
  await start();
  await registry.deregister('self');
  await nextBeat();
  assert.equal(registry.has('self'), true);
});

test('a disk that is full at the start keeps nobody from serving: the VM is registered later', async (t) => {
  const { store, registry, nextBeat, start } = setUp(t);
  store.failure = new VregError('STORE_FULL', 'the disk is full');
  await start();
  await nextBeat();
  assert.equal(registry.has('self'), false);
  store.failure = undefined;
  await nextBeat();
  assert.equal(registry.has('self'), true);
});

test('a VM that was known in another role becomes what the daemon says, in its place', async (t) => {
  const { registry, start } = setUp(t);
  await registry.register(aVm({ id: 'self', role: 'worker', name: 'old' }));
  await start();
  assert.deepEqual(
    registry.discover('infra').map(({ vm }) => vm.name),
    [SELF.name],
  );
  assert.equal(registry.discover('worker').length, 0);
});
