/** Simulations of a fleet with the real agents and the real registry, and checks that the simulation notices faults. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Clock } from '../../daemon/clock.ts';
import { type FleetOptions, simulate } from './fleet.ts';

const MINUTE = 60_000;
const FLEET: FleetOptions = { seed: 1, vms: 60, length: 10 * MINUTE, every: 10_000 };

test('in one simulation no live VM goes stale, no clone stays undetected and no dead VM stays live', async () => {
  const { falseDeaths, undetectedClones, ghosts } = await simulate(FLEET);
  assert.deepEqual({ falseDeaths, undetectedClones, ghosts }, { falseDeaths: 0, undetectedClones: 0, ghosts: 0 });
});

test('each of many clones is detected', async () => {
  const { clones, undetectedClones, falseDeaths } = await simulate({ ...FLEET, incidents: ['clone'] });
  assert.ok(clones > 40, String(clones));
  assert.deepEqual([undetectedClones, falseDeaths], [0, 0]);
});

test('the same seed gives the same run, another seed a different one', async () => {
  const short = { ...FLEET, length: 3 * MINUTE };
  const [one, again, other] = [await simulate(short), await simulate(short), await simulate({ ...short, seed: 9 })];
  assert.deepEqual(one, again);
  assert.notDeepEqual(one, { ...other, seed: 1 });
});

test('during and after killRegistry at most three times the mean of the requests arrive in any 100 ms', async () => {
  const { burst, falseDeaths } = await simulate({
    ...FLEET,
    vms: 200,
    length: 5 * MINUTE,
    incidents: ['killRegistry'],
  });
  assert.ok(burst > 1 && burst <= 3, String(burst));
  assert.equal(falseDeaths, 0);
});

test('VMs that are removed, recreated or rewound, and registries that are restored or copied, cause no false death', async () => {
  const incidents = ['remove', 'recreate', 'rewind', 'restoreRegistry', 'copyRegistry'] as const;
  const { falseDeaths, ghosts } = await simulate({ ...FLEET, incidents });
  assert.deepEqual({ falseDeaths, ghosts }, { falseDeaths: 0, ghosts: 0 });
});

// Tests of the simulation itself: each one injects a fault that the report must show. A small fleet shows most of them.
const SMALL: FleetOptions = { ...FLEET, vms: 20, length: 5 * MINUTE };

test('the report shows undetected clones if agents do not prove their identity', async () => {
  const { undetectedClones } = await simulate({ ...SMALL, proves: false, incidents: ['clone'] });
  assert.ok(undetectedClones > 0);
});

test('the report shows false deaths if leases count wall time', async () => {
  const makeClock = (_listened: number, now: () => number): Clock => ({
    now,
    listening: now,
    listeningAt: (wall) => wall,
    suspend: () => {},
    resume: () => {},
    lastGap: () => undefined,
  });
  const { falseDeaths } = await simulate({ ...SMALL, makeClock, incidents: ['setRegistryClock', 'pause'] });
  const { falseDeaths: none } = await simulate({ ...FLEET, incidents: ['setRegistryClock', 'pause'] });
  assert.ok(falseDeaths > 0);
  assert.equal(none, 0);
});

test('the report shows ghosts if the registry ignores all silence', async () => {
  const makeClock = (_listened: number, now: () => number): Clock => ({
    now,
    listening: () => 1,
    listeningAt: () => 1,
    suspend: () => {},
    resume: () => {},
    lastGap: () => undefined,
  });
  const { ghosts } = await simulate({ ...SMALL, makeClock, incidents: ['kill'] });
  assert.ok(ghosts > 0);
});

test('the report shows bursts if all agents send heartbeats in the same second', async () => {
  const { burst } = await simulate({
    ...FLEET,
    vms: 200,
    length: 6 * MINUTE,
    every: 20_000,
    pause: () => 10_000,
    incidents: ['massRestart'],
  });
  assert.ok(burst > 20, String(burst));
});
