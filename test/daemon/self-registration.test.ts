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
  /** Passes the time of one heartbeat and waits for its effects. */
  const nextHeartbeat = async () => {
    clock.pass(STALE_AFTER / 3);
    t.mock.timers.tick(STALE_AFTER / 3);
    await new Promise(setImmediate);
  };
  const start = async () => {
    const stop = await keepSelfRegistered(registry, SELF, pino({ level: 'silent' }));
    t.after(stop);
    return stop;
  };
  return { store, registry, clock, nextHeartbeat, start };
}

test('the daemon registers its own VM and keeps it live', async (t) => {
  const { registry, nextHeartbeat, start } = setUp(t);
  const stop = await start();
  assert.deepEqual(registry.get('self').vm.services, SELF.services);
  for (let n = 0; n < 10; n++) await nextHeartbeat();
  assert.equal(registry.discover('infra').length, 1);
  assert.equal(registry.revision, 1, 'a heartbeat is no change');
  stop();
  for (let n = 0; n < 4; n++) await nextHeartbeat();
  assert.equal(registry.discover('infra').length, 0);
});

test('an existing entry is updated and keeps its registration time', async (t) => {
  const { registry, start } = setUp(t);
  await registry.register(aVm({ id: 'self', role: 'infra', status: 'stopped', name: 'old' }));
  await start();
  const { vm, version } = registry.get('self');
  assert.deepEqual([vm.name, vm.status, version.created, version.revision], [SELF.name, 'running', 1, 2]);
});

test('a removed entry is registered again with the next heartbeat', async (t) => {
  const { registry, nextHeartbeat, start } = setUp(t);
  await start();
  await registry.deregister('self');
  await nextHeartbeat();
  assert.equal(registry.has('self'), true);
});

test('a full disk at the start does not stop the daemon: the VM is registered later', async (t) => {
  const { store, registry, nextHeartbeat, start } = setUp(t);
  store.failure = new VregError('STORE_FULL', 'the disk is full');
  await start();
  await nextHeartbeat();
  assert.equal(registry.has('self'), false);
  store.failure = undefined;
  await nextHeartbeat();
  assert.equal(registry.has('self'), true);
});

test('an entry with another role is replaced by the registration of the daemon', async (t) => {
  const { registry, start } = setUp(t);
  await registry.register(aVm({ id: 'self', role: 'worker', name: 'old' }));
  await start();
  assert.deepEqual(
    registry.discover('infra').map(({ vm }) => vm.name),
    [SELF.name],
  );
  assert.equal(registry.discover('worker').length, 0);
});
