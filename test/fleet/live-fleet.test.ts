import assert from 'node:assert/strict';
import test from 'node:test';
import { LiveFleet } from '../../src/fleet/live-fleet.ts';
import type { VmWithLiveness } from '../../src/protocol/api.ts';
import type { VmEventType } from '../../src/protocol/events.ts';
import { livenessOf } from '../../src/protocol/liveness.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { aVm } from '../helpers/vm.ts';

const AT = '2026-01-01T00:00:00.000Z';

function entry(more: Partial<Vm> = {}): Vm {
  return { ...aVm(), registeredAt: AT, lastSeen: AT, ...more };
}

function event(type: VmEventType, vm: Vm) {
  return { type, revision: 1, at: AT, vm };
}

function fleetOf(...vms: Partial<VmWithLiveness>[]): LiveFleet {
  const fleet = new LiveFleet(() => true);
  fleet.replace(vms.map((vm) => ({ ...entry(), stale: false, ...vm })));
  return fleet;
}

const states = (fleet: LiveFleet) => fleet.vms.map((vm) => `${vm.id} ${livenessOf(vm)}`);

for (const [type, status, before, after] of [
  ['stale', 'running', { suspect: true }, 'stale'],
  ['suspect', 'running', {}, 'suspect'],
  ['revived', 'running', { stale: true }, 'live'],
  ['status', 'paused', {}, 'paused'],
  ['status', 'running', { status: 'paused', stale: true }, 'live'],
  ['status', 'stopped', { stale: true }, 'stopped'],
  ['registered', 'running', { stale: true }, 'live'],
  ['updated', 'running', { suspect: true }, 'suspect'],
  ['updated', 'running', { stale: true }, 'stale'],
] as const) {
  test(`the event ${type} with the status ${status} turns ${JSON.stringify(before)} into ${after}`, () => {
    const fleet = fleetOf({ id: 'a', ...before });
    assert.equal(fleet.apply(event(type, entry({ id: 'a', status })), 0), true);
    assert.deepEqual(states(fleet), [`a ${after}`]);
  });
}

test('a new VM comes first, and a removed one disappears', () => {
  const fleet = fleetOf({ id: 'b' }, { id: 'a' });
  fleet.apply(event('registered', entry({ id: 'c' })), 0);
  fleet.apply(event('deregistered', entry({ id: 'b' })), 0);
  assert.deepEqual(states(fleet), ['c live', 'a live']);
  fleet.apply(event('deregistered', entry({ id: 'a' })), 0);
  fleet.apply(event('registered', entry({ id: 'a', registeredAt: '2026-01-02T00:00:00.000Z' })), 0);
  assert.deepEqual(states(fleet), ['a live', 'c live']);
});

test('an update keeps the health of services, which events do not contain', () => {
  const fleet = fleetOf({ id: 'a', health: { api: 'failing' } });
  fleet.apply(event('updated', entry({ id: 'a', name: 'two' })), 0);
  assert.deepEqual([fleet.vms[0]!.name, fleet.vms[0]!.health], ['two', { api: 'failing' }]);
});

test('a heartbeat updates the time, and is a change only if the VM was silent', () => {
  const fleet = fleetOf({ id: 'b', stale: true }, { id: 'a' });
  const heartbeat = (id: string) => ({ type: 'heartbeat', id, lastSeen: '2026-01-01T00:01:00.000Z' }) as const;
  assert.equal(fleet.apply(heartbeat('a'), 0), false);
  assert.equal(fleet.apply(heartbeat('b'), 0), true);
  assert.equal(fleet.apply(heartbeat('unknown'), 0), false);
  assert.deepEqual(states(fleet), ['b live', 'a live']);
  assert.ok(fleet.vms.every(({ lastSeen }) => lastSeen === '2026-01-01T00:01:00.000Z'));
});

test('a VM that no longer matches the filter disappears, and returns when it matches again', () => {
  const fleet = new LiveFleet(({ status }) => status === 'running');
  fleet.replace([{ ...entry({ id: 'a' }), stale: false }]);
  fleet.apply(event('status', entry({ id: 'a', status: 'paused' })), 0);
  assert.deepEqual(states(fleet), []);
  fleet.apply(event('status', entry({ id: 'a' })), 0);
  assert.deepEqual(states(fleet), ['a live']);
});

test('the rate of heartbeats counts only the VMs in the list', () => {
  const fleet = new LiveFleet(({ status }) => status === 'running');
  fleet.replace([
    { ...entry({ id: 'a' }), stale: false },
    { ...entry({ id: 'b', status: 'paused' }), stale: false },
  ]);
  fleet.restartRate(0);
  for (const id of ['a', 'b', 'unknown']) fleet.apply({ type: 'heartbeat', id, lastSeen: AT }, 500);
  assert.equal(fleet.heartbeatRate(1000), 1);
});

test('the rate of heartbeats is averaged over the time since the start, and at most over a minute', () => {
  const fleet = fleetOf({ id: 'a' });
  fleet.restartRate(0);
  const beat = (at: number) => fleet.apply({ type: 'heartbeat', id: 'a', lastSeen: AT }, at);
  assert.equal(fleet.heartbeatRate(0), 0);
  for (let at = 0; at < 10_000; at += 500) beat(at);
  assert.equal(fleet.heartbeatRate(10_000), 2);
  for (let at = 10_000; at < 120_000; at += 1000) beat(at);
  assert.equal(fleet.heartbeatRate(119_999), 1);
  assert.equal(fleet.heartbeatRate(300_000), 0);
});
