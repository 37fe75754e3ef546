/** The order of the history in the fleet page. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { mergeEvents } from '../src/page/event-order.ts';
import type { VmEvent } from '../src/protocol/events.ts';
import type { Vm } from '../src/protocol/vm.ts';
import { aVm } from './helpers/vm.ts';

function anEvent(revision: number, second = revision, type: VmEvent['type'] = 'updated'): VmEvent {
  const at = new Date(second * 1000).toISOString();
  const vm: Vm = { ...aVm({ id: 'a' }), registeredAt: at, lastSeen: at };
  return { type, revision, at, vm };
}

const revisions = (events: readonly VmEvent[]) => events.map(({ revision }) => revision);

test('the events of an outage come between those before and after it', () => {
  const known = [6, 5, 2, 1].map((revision) => anEvent(revision));
  const read = [5, 4, 3, 2].map((revision) => anEvent(revision));
  assert.deepEqual(revisions(mergeEvents(known, read, 10)), [6, 5, 4, 3, 2, 1]);
  assert.deepEqual(revisions(mergeEvents(known, read, 3)), [6, 5, 4]);
});

test('events of the same revision are in the order of their times', () => {
  const change = anEvent(3, 10);
  const stale = anEvent(3, 20, 'stale');
  assert.deepEqual(mergeEvents([change], [stale], 10), [stale, change]);
});
