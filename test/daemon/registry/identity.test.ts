import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import type { VregError } from '../../../src/protocol/errors.ts';
import type { FakeClock } from '../../helpers/clock.ts';
import {
  CLONE,
  DECIDED,
  heartbeat,
  LEASE,
  ONE,
  OWN,
  registryWithVm,
  TWO,
  token,
  UNDECIDED,
} from '../../helpers/incarnations.ts';
import { aVm } from '../../helpers/vm.ts';

test('an agent that spends each token once, or repeats a heartbeat whose response was lost, is accepted', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  assert.deepEqual(registry.conflicts.all, []);
});

test('an agent that spends a token a second time is another incarnation: it is refused, recorded, and no sign of life', async () => {
  const seen: string[] = [];
  const { registry, clock } = await registryWithVm({ conflict: ({ id, state }) => void seen.push(`${id} ${state}`) });
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  const { lastSeen } = registry.get('vm-1');
  clock.pass(1000);
  for (let times = 0; times < 3; times++) {
    assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), UNDECIDED);
  }
  assert.equal(registry.get('vm-1').lastSeen, lastSeen);
  const [conflict, ...others] = registry.conflicts.all;
  assert.deepEqual(others, []);
  const { holder, other, ...rest } = conflict!;
  assert.deepEqual([holder.address, holder.incarnation, holder.from], ['10.0.0.1', 'one', '192.0.2.1']);
  assert.deepEqual([other.address, other.incarnation, other.from], ['10.0.0.2', 'two', '192.0.2.2']);
  assert.deepEqual(
    { ...rest, firstAt: '', lastAt: '' },
    { id: 'vm-1', state: 'open', count: 3, firstAt: '', lastAt: '' },
  );
  assert.deepEqual(seen, ['vm-1 open'], 'reported once');
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), DECIDED);
});

test('a plain heartbeat is a sign of life and does not change the holder', async () => {
  const { registry, clock } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  clock.pass(1000);
  assert.equal(registry.heartbeat('vm-1').lastSeen, new Date(clock.wall).toISOString());
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  assert.deepEqual(registry.conflicts.all, []);
});

test('an agent that is ahead of a registry that lost heartbeats is the VM, also far ahead', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(3), next: token(4) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(90), next: token(91) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(91), next: token(92) });
  assert.deepEqual(registry.conflicts.all, []);
});

test('an agent that lost its state is accepted if it has the same addresses or the holder is silent; otherwise it is a clone', async () => {
  const { registry, clock } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, incarnation: 'again', next: token(1, 'b') });
  assert.throws(() => registry.heartbeat('vm-1', { ...TWO, next: token(1, 'c') }), CLONE);
  clock.pass(LEASE + 1);
  registry.heartbeat('vm-1', { ...TWO, next: token(1, 'c') });
  assert.equal(registry.conflicts.all.length, 1);
});

test('a rewound VM takes over once its other incarnation has been silent for one lease period, and the conflict is recorded', async () => {
  const { registry, clock } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  clock.pass(LEASE);
  assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), CLONE);
  clock.pass(1);
  registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') });
  assert.deepEqual(
    registry.conflicts.all.map(({ state, count }) => [state, count]),
    [['replaced', 2]],
  );
  assert.throws(() => registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) }), CLONE);
});

test('an agent that asks for it replaces the holder, and the conflict is recorded', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(5) });
  registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b'), replace: true });
  assert.throws(
    () => registry.heartbeat('vm-1', { ...ONE, spend: token(5, 'c').replace('5.', '1.'), next: token(6) }),
    CLONE,
  );
  assert.deepEqual(
    registry.conflicts.all.map(({ state }) => state),
    ['open', 'replaced'],
  );
});

test("a process at another address waits until the holder's heartbeat is overdue, then takes over", async () => {
  const { registry, clock } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  clock.pass(60_000);
  const successor = { ...TWO, spend: token(1), next: token(2, 'b') };
  assert.throws(() => registry.heartbeat('vm-1', successor), {
    ...CLONE,
    retryAfter: 5,
    message: 'VM "vm-1" is still sending heartbeats from 10.0.0.1; retry in 30 s',
  });
  clock.pass(30_000);
  registry.heartbeat('vm-1', successor);
  assert.deepEqual(registry.conflicts.all, []);
});

test('a copy that repeats the last heartbeat from another address also waits, and is refused once the VM continues', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  const copied = { ...TWO, spend: token(1), next: token(2) };
  assert.throws(() => registry.heartbeat('vm-1', copied), UNDECIDED);
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  assert.throws(() => registry.heartbeat('vm-1', copied), CLONE);
});

test('a successor at the same address, or after a graceful stop, does not wait', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, incarnation: 'again', spend: token(1), next: token(2) });
  await registry.update('vm-1', { status: 'stopped' });
  registry.heartbeat('vm-1', { ...TWO, spend: token(2), next: token(3) });
  assert.deepEqual(registry.conflicts.all, []);
});

test('a copy of an agent whose last response was lost waits like any process at another address, and is refused', async () => {
  const { registry, clock } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  const copy = { ...TWO, spend: token(1), next: token(2) };
  assert.throws(() => registry.heartbeat('vm-1', copy), UNDECIDED);
  registry.heartbeat('vm-1', { ...ONE, incarnation: 'again', spend: token(1), next: token(2) });
  clock.pass(60_000);
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  assert.throws(() => registry.heartbeat('vm-1', copy), CLONE);
});

test('a VM that sends heartbeats while it is declared paused is not taken over, a stopped one is', async () => {
  const { registry } = await registryWithVm();
  const rewound = { ...TWO, spend: token(1), next: token(2, 'b') };
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  await registry.update('vm-1', { status: 'paused' });
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  assert.throws(() => registry.heartbeat('vm-1', rewound), CLONE);
  await registry.replace(aVm({ id: 'vm-1', status: 'stopped' }));
  registry.heartbeat('vm-1', rewound);
  assert.deepEqual(
    registry.conflicts.all.map(({ state, count }) => [state, count]),
    [['replaced', 2]],
  );
});

test('tokens and conflicts survive a restart, as of the last save of heartbeats', async () => {
  const { registry, options, store } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(1) });
  registry.heartbeat('vm-1', { ...ONE, spend: token(1), next: token(2) });
  assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), CLONE);
  await registry.saveHeartbeats();
  assert.equal(registry.unsaved.isEmpty, true);
  registry.heartbeat('vm-1', { ...ONE, spend: token(2), next: token(3) });
  const again = new Registry(options, store.contents());
  assert.equal(again.conflicts.all.length, 1);
  assert.throws(() => again.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') }), CLONE);
  again.heartbeat('vm-1', { ...ONE, spend: token(3), next: token(4) });
});

test('a VM that was removed and registered again has no holder and no records', async () => {
  const { registry, store } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(9) });
  await registry.saveHeartbeats();
  await registry.deregister('vm-1');
  await registry.saveHeartbeats();
  assert.deepEqual(
    store.contents().records.filter(({ kind }) => kind === 'identity'),
    [],
  );
  await registry.register(aVm({ id: 'vm-1' }));
  registry.heartbeat('vm-1', { ...TWO, next: token(1) });
  assert.deepEqual(registry.conflicts.all, []);
});

for (const [what, isBack] of [
  ['removed', false],
  ['removed and registered again', true],
] as const) {
  test(`a VM that was ${what} has no holder after a kill, although the removal of its record was not saved`, async () => {
    const { registry, options, store } = await registryWithVm();
    registry.heartbeat('vm-1', { ...ONE, next: token(9) });
    await registry.saveHeartbeats();
    await registry.deregister('vm-1');
    if (isBack) await registry.register(aVm({ id: 'vm-1' }));
    assert.equal(store.contents().records.filter(({ kind }) => kind === 'identity').length, 1);
    const again = new Registry(options, store.contents());
    if (!isBack) await again.register(aVm({ id: 'vm-1' }));
    again.heartbeat('vm-1', { ...TWO, next: token(1) });
    assert.deepEqual(again.conflicts.all, []);
    await again.saveHeartbeats();
    assert.match(
      store
        .contents()
        .records.map(({ body }) => body)
        .join(),
      /10\.0\.0\.2/,
    );
  });
}

for (const [how, supersede] of [
  [
    'replaced',
    (registry: Registry) => registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b'), replace: true }),
  ],
  [
    'rewound and silent',
    (registry: Registry, clock: FakeClock) => {
      clock.pass(LEASE + 1);
      registry.heartbeat('vm-1', { ...TWO, spend: token(1), next: token(2, 'b') });
    },
  ],
  [
    'silent while another incarnation lost its state',
    (registry: Registry, clock: FakeClock) => {
      clock.pass(LEASE + 1);
      registry.heartbeat('vm-1', { ...TWO, next: token(2, 'b') });
    },
  ],
] as const) {
  test(`a former holder that was ${how} stays refused, although its tokens have higher numbers`, async () => {
    const { registry, clock, options, store } = await registryWithVm();
    registry.heartbeat('vm-1', { ...ONE, next: token(1) });
    for (let n = 1; n < 50; n++) registry.heartbeat('vm-1', { ...ONE, spend: token(n), next: token(n + 1) });
    supersede(registry, clock);
    registry.heartbeat('vm-1', { ...TWO, spend: token(2, 'b'), next: token(3, 'b') });
    await registry.saveHeartbeats();
    registry.heartbeat('vm-1', { ...TWO, spend: token(3, 'b'), next: token(4, 'b') });
    for (const each of [registry, new Registry(options, store.contents())]) {
      assert.throws(() => each.heartbeat('vm-1', { ...ONE, spend: token(50), next: token(51) }), CLONE);
      assert.throws(() => each.heartbeat('vm-1', { ...ONE, spend: token(49), next: token(50) }), CLONE);
      // Also after a kill that lost the last heartbeat of the new holder.
      each.heartbeat('vm-1', { ...TWO, spend: token(4, 'b'), next: token(5, 'b') });
    }
  });
}

test('two incarnations that replace each other repeatedly hold the VM in turn', async () => {
  const { registry } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(9) });
  for (let n = 1; n < 30; n++) {
    registry.heartbeat('vm-1', { ...TWO, spend: token(n, 'b'), next: token(n + 1, 'b'), replace: true });
    assert.throws(() => registry.heartbeat('vm-1', { ...ONE, spend: token(n + 8), next: token(n + 9, 'c') }), CLONE);
    registry.heartbeat('vm-1', { ...ONE, spend: token(n + 8), next: token(n + 9), replace: true });
    assert.throws(() => registry.heartbeat('vm-1', { ...TWO, spend: token(n + 1, 'b'), next: token(99) }), CLONE);
  }
});

test('an identity stored with the keys ousted and rests is read, and its next save uses the new keys', async () => {
  const { clock, registry, store, options } = await registryWithVm();
  registry.heartbeat('vm-1', { ...ONE, next: token(9) });
  registry.heartbeat('vm-1', { ...TWO, next: token(1, 'b'), replace: true });
  await registry.update('vm-1', { status: 'paused' });
  await registry.saveHeartbeats();
  const key = 'identity vm-1';
  const saved = store.records.get(key)!;
  const body = saved.body.replace('"superseded"', '"ousted"').replace('"isIdle"', '"rests"');
  assert.notEqual(body, saved.body);
  store.records.set(key, { ...saved, body });
  const restarted = new Registry({ ...options, clock }, store.contents());
  // Idle, so that a third incarnation takes over at once; superseded, so that the first one stays refused.
  restarted.heartbeat('vm-1', { ...ONE, spend: token(1, 'c'), next: token(2, 'c') });
  assert.throws(() => restarted.heartbeat('vm-1', { ...ONE, spend: token(9), next: token(10) }), CLONE);
  await restarted.saveHeartbeats();
  const { ousted, rests, superseded } = JSON.parse(store.records.get(key)!.body) as Record<string, unknown>;
  assert.deepEqual([ousted, rests], [undefined, undefined]);
  assert.deepEqual(superseded, [token(9), token(1, 'b')]);
});

const sides = (registry: Registry) =>
  registry.conflicts.all.map(({ state, holder, other }) => [state, holder.address, other.address]);
/** An attacker with a token of the scope heartbeat. */
const INVENTED = { address: '10.0.0.6', from: '192.0.2.6', incarnation: 'six' };
const far = (number: number) => token(999_000_000_000_000 + number, 'f');

test('a refused incarnation retries soon, then every 5 s, and again when the lease has passed', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  const copy = { ...TWO, spend: token(1), next: token(2, 'b') };
  const retries: (number | undefined)[] = [];
  const refused = () => {
    try {
      heartbeat(registry, copy);
    } catch (error) {
      retries.push((error as VregError).retryAfter);
    }
  };
  for (let times = 0; times < 5; times++) refused();
  clock.pass(LEASE - 1500);
  refused();
  assert.deepEqual(retries, [1, 2, 4, 5, 5, 2]);
  clock.pass(1501);
  heartbeat(registry, copy);
  assert.deepEqual(sides(registry), [['replaced', '10.0.0.1', '10.0.0.2']]);
});

test('a holder that repeats its last heartbeat has not decided a claim, its next one has', async () => {
  const { registry } = await registryWithVm();
  const last = { ...ONE, spend: token(1), next: token(2) };
  const copy = { ...TWO, spend: token(1), next: token(2, 'b') };
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, last);
  assert.throws(() => heartbeat(registry, copy), UNDECIDED);
  heartbeat(registry, last);
  heartbeat(registry, undefined);
  assert.throws(() => heartbeat(registry, copy), UNDECIDED);
  heartbeat(registry, { ...ONE, spend: token(2), next: token(3) });
  assert.throws(() => heartbeat(registry, copy), DECIDED);
});

test('a VM that was rewound twice to the same state makes a new claim the second time', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  const rewound = { ...ONE, spend: token(1), next: token(2, 'b') };
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  for (let n = 2; n < 9; n++) {
    heartbeat(registry, { ...ONE, spend: token(n), next: token(n + 1) });
    clock.pass(60_000);
  }
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  heartbeat(registry, { ...ONE, spend: token(9), next: token(10) });
  assert.throws(() => heartbeat(registry, rewound), DECIDED);
});

test('a VM that was recreated with its id is refused while that is undecided, and accepted when the old one is silent', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(7) });
  clock.pass(1000);
  const recreated = { ...TWO, next: token(1, 'b') };
  assert.throws(() => heartbeat(registry, recreated), UNDECIDED);
  clock.pass(LEASE);
  heartbeat(registry, recreated);
  heartbeat(registry, { ...TWO, spend: token(1, 'b'), next: token(2, 'b') });
  assert.deepEqual(sides(registry), [['replaced', '10.0.0.1', '10.0.0.2']], 'no conflict stays open');
});

test('a claim stays undecided across a restart of the registry, and the time of the restart does not count', async () => {
  const { registry, clock, store, options } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  const rewound = { ...ONE, spend: token(1), next: token(2, 'b') };
  clock.pass(LEASE / 2);
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  await registry.saveHeartbeats();
  clock.miss(LEASE * 2);
  const again = new Registry(options, store.contents());
  assert.throws(() => heartbeat(again, rewound), UNDECIDED);
  clock.pass(LEASE / 2 + 1);
  heartbeat(again, rewound);
});

test('an invented token number evicts nobody: the VM takes itself back with its next heartbeat, and both are on record', async () => {
  const seen: string[] = [];
  const { registry, clock } = await registryWithVm({ conflict: ({ state }) => void seen.push(state) });
  heartbeat(registry, { ...ONE, next: token(1) });
  clock.pass(1000);
  heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
  heartbeat(registry, { ...INVENTED, spend: far(2), next: far(3) });
  assert.deepEqual(sides(registry), [['replaced', '10.0.0.1', '10.0.0.6']]);
  clock.pass(LEASE - 1);
  heartbeat(registry, { ...INVENTED, spend: far(3), next: far(4) });
  clock.pass(1);
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  assert.deepEqual(sides(registry), [['open', '10.0.0.1', '10.0.0.6']]);
  assert.throws(() => heartbeat(registry, { ...INVENTED, spend: far(4), next: far(5) }), DECIDED);
  assert.throws(() => heartbeat(registry, { ...INVENTED, spend: far(3), next: far(4) }), CLONE);
  heartbeat(registry, { ...ONE, spend: token(2), next: token(3) });
  assert.deepEqual(seen, ['replaced', 'open', 'open']);
});

test('an agent whose last response was lost, or that has a new process, also takes its VM back', async () => {
  for (const back of [
    { ...ONE, spend: token(1), next: token(2) },
    { ...ONE, incarnation: 'restarted', spend: token(2), next: token(3) },
  ]) {
    const { registry } = await registryWithVm();
    heartbeat(registry, { ...ONE, next: token(1) });
    heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
    heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
    heartbeat(registry, back);
    assert.throws(() => heartbeat(registry, { ...INVENTED, spend: far(2), next: far(3) }), DECIDED);
  }
});

test('an attacker that invents a new number after each refusal never has the VM for longer than a heartbeat interval', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  for (let n = 1; n < 60; n++) {
    heartbeat(registry, { ...INVENTED, spend: far(2 * n), next: far(2 * n + 1) });
    heartbeat(registry, { ...ONE, spend: token(n), next: token(n + 1) });
  }
});

test('a tentative holder is proven after a lease, also across a restart, and the one before it is refused then', async () => {
  const { registry, clock, store, options } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...TWO, spend: token(9), next: token(10) });
  clock.pass(LEASE / 2);
  heartbeat(registry, { ...TWO, spend: token(10), next: token(11) });
  await registry.saveHeartbeats();
  const again = new Registry(options, store.contents());
  clock.pass(LEASE / 2 + 1);
  const back = { ...ONE, spend: token(1), next: token(2) };
  assert.throws(() => heartbeat(again, back), UNDECIDED);
  heartbeat(again, { ...TWO, spend: token(11), next: token(12) });
  assert.throws(() => heartbeat(again, back), DECIDED);
});

test('the proven incarnation is retained across a restart', async () => {
  const { registry, store, options } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
  await registry.saveHeartbeats();
  const again = new Registry(options, store.contents());
  heartbeat(again, { ...ONE, spend: token(1), next: token(2) });
  assert.deepEqual(sides(again), [['open', '10.0.0.1', '10.0.0.6']]);
});

test('an agent ahead of a registry that lost heartbeats succeeds an attacker that was faster and invented a higher number', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
  heartbeat(registry, { ...ONE, spend: token(3), next: token(4) });
  heartbeat(registry, { ...ONE, spend: token(4), next: token(5) });
  assert.throws(() => heartbeat(registry, { ...INVENTED, spend: far(2), next: far(3) }), CLONE);
  assert.deepEqual(sides(registry)[0]?.slice(1), ['10.0.0.1', '10.0.0.6']);
});

test('after a restore, a clone that is behind its original is refused, and not accepted while the original is tentative', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(50) });
  heartbeat(registry, { ...ONE, spend: token(60), next: token(61) });
  const clone = { ...TWO, spend: token(55), next: token(56, 'b') };
  let n = 61;
  for (let passed = 0; passed < LEASE; passed += 60_000) {
    assert.throws(() => heartbeat(registry, clone), UNDECIDED);
    clock.pass(60_000);
    heartbeat(registry, { ...ONE, spend: token(n), next: token(++n) });
  }
  clock.pass(1);
  heartbeat(registry, { ...ONE, spend: token(n), next: token(++n) });
  assert.throws(() => heartbeat(registry, clone), DECIDED);
});

test('an agent that alternates between two copies of a registry is never refused and causes no conflict', async () => {
  const a = await registryWithVm();
  heartbeat(a.registry, { ...ONE, next: token(1) });
  await a.registry.saveHeartbeats();
  const copies = [a.registry, new Registry(a.options, a.store.contents())];
  for (let n = 1; n < 40; n++) {
    heartbeat(copies[n % 2]!, { ...ONE, spend: token(n), next: token(n + 1) });
    a.clock.pass(20_000);
  }
  assert.deepEqual(copies.map(sides), [[], []]);
});

test('an agent without state at the address of a VM that is alive is accepted, and the VM takes itself back', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  const stranger = { ...ONE, incarnation: 'x', next: token(1, 'd') };
  heartbeat(registry, stranger);
  assert.throws(() => heartbeat(registry, { ...ONE, incarnation: 'y', next: token(1, 'e') }), UNDECIDED);
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  assert.throws(() => heartbeat(registry, { ...stranger, spend: token(1, 'd'), next: token(2, 'd') }), DECIDED);
  clock.pass(LEASE + 1);
  heartbeat(registry, { ...ONE, incarnation: 'y', next: token(1, 'e') });
});

test('an agent that loses its state twice within one lease period is accepted once its last heartbeat is overdue', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  heartbeat(registry, { ...ONE, incarnation: 'second', next: token(1, 'd') });
  clock.pass(90_000);
  heartbeat(registry, { ...ONE, incarnation: 'third', next: token(1, 'e') });
  heartbeat(registry, { ...ONE, incarnation: 'third', spend: token(1, 'e'), next: token(2, 'e') });
});

test('a VM that is declared paused returns within one lease period, even if another incarnation claimed it', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  await registry.update('vm-1', { status: 'paused' });
  heartbeat(registry, { ...INVENTED, spend: token(1, 'f'), next: token(2, 'f') });
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  assert.equal(sides(registry)[0]?.[2], '10.0.0.6');
});

test('a VM that was refused, removed and registered again begins a new claim when it is refused again', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(100) });
  const claim = { address: ONE.address, from: ONE.from, isReturning: true };
  const rewound = { ...ONE, spend: token(3), next: token(4, 'b') };
  assert.throws(() => registry.assertVacant('vm-1', claim), { code: 'CONFLICT' });
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  await registry.deregister('vm-1');
  await registry.register(aVm({ id: 'vm-1' }));
  heartbeat(registry, rewound);
  clock.pass(20_000);
  assert.throws(() => registry.assertVacant('vm-1', claim), { code: 'CONFLICT' });
  assert.throws(() => heartbeat(registry, { ...rewound, next: token(4, 'c') }), UNDECIDED);
});

test('a VM that is rewound, resumed and rewound again within a lease makes a new claim', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(100) });
  const rewound = { ...ONE, spend: token(3), next: token(4, 'b') };
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  clock.pass(10_000);
  heartbeat(registry, { ...ONE, spend: token(100), next: token(101) });
  clock.pass(60_000);
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
});

/** A VM that has lost its access token and enrols again; `refused` expects a refusal with an error code. */
async function enrolling({ address, from }: typeof ONE, isReturning = true) {
  const setup = await registryWithVm();
  const enrol = (registry = setup.registry) => registry.assertVacant('vm-1', { address, from, isReturning });
  const refused = (code: string, registry = setup.registry) => assert.throws(() => enrol(registry), { code });
  return { ...setup, enrol, refused };
}

test('a VM without its token that starts again after a decided refusal makes a new claim', async () => {
  const { registry, clock, enrol, refused } = await enrolling(TWO);
  heartbeat(registry, { ...OWN, next: token(1) });
  refused('CONFLICT');
  clock.pass(1000);
  heartbeat(registry, { ...OWN, spend: token(1), next: token(2) });
  refused('IDENTITY_CONFLICT');
  clock.pass(200_000);
  refused('CONFLICT');
  clock.pass(LEASE);
  enrol();
});

test('an enrolled VM whose token is refused for a moment, twice within a lease, is not refused for its own heartbeats', async () => {
  const { registry, clock, refused } = await enrolling(ONE);
  heartbeat(registry, { ...OWN, next: token(1) });
  for (let n = 1; n < 8; n++) {
    refused('CONFLICT');
    clock.pass(60_000);
    heartbeat(registry, { ...OWN, spend: token(n), next: token(n + 1) });
  }
  refused('CONFLICT');
});

test('an enrolled VM without an identity is not refused for its own heartbeats either', async () => {
  const { registry, clock, refused } = await enrolling({ ...ONE, address: aVm().address });
  for (let n = 1; n < 4; n++) {
    refused('CONFLICT');
    clock.pass(1000);
    heartbeat(registry, undefined);
  }
  refused('CONFLICT');
});

for (const [what, disturb] of [
  ['an operator resumes the VM', (registry: Registry) => registry.update('vm-1', { status: 'running' })],
  ['a timer sends plain heartbeats', (registry: Registry) => heartbeat(registry, undefined)],
] as const) {
  test(`a recreated VM that enrols again while ${what} is accepted when its former agent is silent for a lease`, async () => {
    const { registry, clock, enrol, refused } = await enrolling(TWO);
    heartbeat(registry, { ...OWN, next: token(1) });
    for (let passed = 0; passed < LEASE; passed += 60_000) {
      refused('CONFLICT');
      clock.pass(60_000);
      await disturb(registry);
    }
    clock.pass(1);
    enrol();
  });

  test(`a VM that enrols with another token or role is not accepted while ${what}`, async () => {
    const { registry, clock, enrol, refused } = await enrolling(TWO, false);
    heartbeat(registry, { ...OWN, next: token(1) });
    clock.pass(LEASE);
    await disturb(registry);
    clock.pass(1);
    refused('CONFLICT');
    clock.pass(LEASE);
    enrol();
  });
}

for (const [what, hasHolder] of [
  ['with a holder', true],
  ['without a holder', false],
] as const) {
  test(`a start of the registry with a shorter lease rejects no claim to enrol again as a VM ${what}`, async () => {
    const { registry, clock, store, options, enrol, refused } = await enrolling(TWO);
    if (hasHolder) heartbeat(registry, { ...OWN, next: token(1) });
    clock.pass(1000);
    await registry.saveHeartbeats();
    refused('CONFLICT');
    await registry.saveHeartbeats();
    const again = new Registry({ ...options, staleAfter: LEASE / 2 }, store.contents());
    clock.pass(1000);
    refused('CONFLICT', again);
    clock.pass(LEASE / 2);
    enrol(again);
  });
}

test('a client with a heartbeat token cannot reject the claim of a VM that enrols again', async () => {
  for (const isTentative of [true, false]) {
    const { registry, clock, refused } = await enrolling(TWO);
    heartbeat(registry, { ...OWN, next: token(1) });
    if (!isTentative) clock.pass(LEASE + 1);
    heartbeat(registry, isTentative ? { ...INVENTED, spend: far(1), next: far(2) } : { ...INVENTED, next: far(2) });
    refused('CONFLICT');
    clock.pass(1000);
    heartbeat(registry, { ...INVENTED, spend: far(2), next: far(3) });
    refused('CONFLICT');
  }
});

test('a client with a heartbeat token that sends the first proof is replaced by the agent that may change the VM', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...INVENTED, next: token(5, 'f'), mayWrite: false });
  heartbeat(registry, { ...OWN, next: token(1) });
  assert.deepEqual(sides(registry), [['replaced', '10.0.0.6', '10.0.0.1']]);
  clock.pass(1000);
  const attack = { ...INVENTED, spend: token(5, 'f'), next: token(6, 'f'), mayWrite: false };
  assert.throws(() => heartbeat(registry, attack), UNDECIDED);
  heartbeat(registry, { ...OWN, spend: token(1), next: token(2) });
  assert.throws(() => heartbeat(registry, attack), DECIDED);
});

test('a VM that was suspended for longer than a lease returns, even if a client with a heartbeat token took its place', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...OWN, next: token(1000) });
  clock.pass(LEASE + 1);
  heartbeat(registry, { ...INVENTED, next: token(5, 'f') });
  heartbeat(registry, { ...INVENTED, spend: token(5, 'f'), next: token(6, 'f') });
  heartbeat(registry, { ...OWN, spend: token(1000), next: token(1001) });
  heartbeat(registry, { ...OWN, spend: token(1001), next: token(1002) });
  assert.deepEqual(sides(registry)[0], ['replaced', '10.0.0.6', '10.0.0.1']);
});

test('a copy whose token may change the VM does not replace a holder whose token may do so, too', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...OWN, next: token(1) });
  heartbeat(registry, { ...OWN, spend: token(1), next: token(2) });
  const copy = { ...TWO, spend: token(1), next: token(2, 'b'), mayWrite: true };
  assert.throws(() => heartbeat(registry, copy), UNDECIDED);
  heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
  assert.throws(() => heartbeat(registry, copy), UNDECIDED, 'the proven incarnation may return');
});

test('an agent at a new address that alternates between two copies of a registry causes one conflict in each', async () => {
  const a = await registryWithVm();
  heartbeat(a.registry, { ...ONE, next: token(1) });
  await a.registry.saveHeartbeats();
  const copies = [a.registry, new Registry(a.options, a.store.contents())];
  a.clock.pass(LEASE / 2);
  for (let n = 1; n < 40; n++) {
    heartbeat(copies[n % 2]!, { ...TWO, spend: token(n), next: token(n + 1) });
    a.clock.pass(5000);
  }
  for (const copy of copies)
    assert.ok(
      copy.conflicts.all.every(({ holder }) => holder.address === ONE.address),
      JSON.stringify(copy.conflicts.all),
    );
  assert.deepEqual(
    copies.map((copy) => copy.conflicts.all.length),
    [1, 0],
  );
});

test('a VM that changes its role and is killed before the next save keeps its identity', async () => {
  const { clock, registry, store, options } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(5) });
  heartbeat(registry, { ...ONE, spend: token(5), next: token(6) });
  const copy = { ...TWO, spend: token(5), next: token(6, 'b') };
  assert.throws(() => heartbeat(registry, copy), UNDECIDED);
  await registry.saveHeartbeats();
  const { created } = registry.get('vm-1').version;
  const restriction = { vm: 'vm-1', role: 'lieutenant' } as const;
  await registry.replace(aVm({ id: 'vm-1', role: 'lieutenant' }), { restriction });
  assert.notEqual(registry.get('vm-1').version.created, created);
  const again = new Registry(options, store.contents());
  clock.pass(1000);
  assert.throws(() => heartbeat(again, copy), UNDECIDED);
  heartbeat(again, { ...ONE, spend: token(6), next: token(7) });
});

test('a VM that was silent for a lease takes itself back from a sender with an invented token number', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(1) });
  clock.pass(LEASE + 1);
  heartbeat(registry, { ...INVENTED, spend: far(1), next: far(2) });
  assert.deepEqual(sides(registry), [['replaced', '10.0.0.1', '10.0.0.6']]);
  clock.pass(1000);
  heartbeat(registry, { ...ONE, spend: token(1), next: token(2) });
  assert.deepEqual(sides(registry), [['open', '10.0.0.1', '10.0.0.6']]);
  assert.throws(() => heartbeat(registry, { ...INVENTED, spend: far(2), next: far(3) }), DECIDED);
  heartbeat(registry, { ...ONE, spend: token(2), next: token(3) });
});

test('after a restore, a copied incarnation id does not outrank the network address of the VM', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(100) });
  const attacker = { incarnation: ONE.incarnation, address: ONE.address, from: '203.0.113.9' };
  heartbeat(registry, { ...attacker, spend: far(1), next: far(2) });
  heartbeat(registry, { ...ONE, spend: token(103), next: token(104) });
  assert.throws(() => heartbeat(registry, { ...attacker, spend: far(2), next: far(3) }), UNDECIDED);
  heartbeat(registry, { ...ONE, spend: token(104), next: token(105) });
});

test('a VM that was recreated with a write token succeeds a client that invented a number with a heartbeat token', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(5), mayWrite: true });
  clock.pass(10_000);
  const recreated = { ...TWO, next: token(1, 'b'), mayWrite: true };
  assert.throws(() => heartbeat(registry, recreated), UNDECIDED);
  const attack = (n: number) => heartbeat(registry, { ...INVENTED, spend: far(n), next: far(n + 1), mayWrite: false });
  for (let n = 1; n < 6; n++) {
    attack(n);
    assert.throws(() => heartbeat(registry, recreated), UNDECIDED);
    clock.pass(58_000);
  }
  attack(6);
  clock.pass(1000);
  heartbeat(registry, recreated);
  assert.throws(() => attack(7), UNDECIDED);
  heartbeat(registry, { ...TWO, spend: token(1, 'b'), next: token(2, 'b'), mayWrite: true });
});

test('a claim ends when the holder changes without its token', async () => {
  const { registry, clock } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(5) });
  const rewound = { ...TWO, spend: token(3), next: token(4, 'b') };
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  heartbeat(registry, { ...INVENTED, next: token(9, 'e'), replace: true });
  clock.pass(1000);
  assert.throws(() => heartbeat(registry, rewound), UNDECIDED);
  heartbeat(registry, { ...INVENTED, spend: token(9, 'e'), next: token(10, 'e') });
  assert.throws(() => heartbeat(registry, rewound), DECIDED);
});

test('an agent that restarts is accepted at its place, even if the registry has lost its heartbeats twice', async () => {
  const { registry } = await registryWithVm();
  heartbeat(registry, { ...ONE, next: token(5) });
  heartbeat(registry, { ...ONE, spend: token(7), next: token(8) });
  const restarted = { ...ONE, incarnation: 'restarted' };
  heartbeat(registry, { ...restarted, spend: token(9), next: token(10) });
  heartbeat(registry, { ...restarted, spend: token(10), next: token(11) });
  const elsewhere = { ...restarted, from: '203.0.113.9' };
  assert.throws(() => heartbeat(registry, { ...elsewhere, spend: far(1), next: far(2) }), UNDECIDED);
});
