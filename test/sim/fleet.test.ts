/** Lives of a fleet with the real agents and the real registry: what may go wrong there does not. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Clock } from '../../daemon/clock.ts';
import { type FleetOptions, simulate } from './fleet.ts';

const MINUTE = 60_000;
const LIFE: FleetOptions = { seed: 1, vms: 60, length: 10 * MINUTE, every: 10_000 };

for (const seed of [1, 2, 3, 4, 5]) {
  test(`nobody dies falsely, no clone lives unseen and no dead VM stays on offer in the life with seed ${seed}`, async () => {
    const { falseDeaths, undetectedClones, ghosts } = await simulate({ ...LIFE, seed });
    assert.deepEqual({ falseDeaths, undetectedClones, ghosts }, { falseDeaths: 0, undetectedClones: 0, ghosts: 0 });
  });
}

test('each of many clones is noticed', async () => {
  const { clones, undetectedClones, falseDeaths } = await simulate({ ...LIFE, happenings: ['clone'] });
  assert.ok(clones > 40, String(clones));
  assert.deepEqual([undetectedClones, falseDeaths], [0, 0]);
});

const MANY: FleetOptions = { seed: 1, vms: 3000, length: 90_000, every: 40_000, happenings: ['massRestart'] };

test('3000 agents that are all started in one instant beat at most three times the mean in any 100 ms', async () => {
  const { burst, beats, happened } = await simulate(MANY);
  assert.ok(beats > 20_000 && happened.massRestart === 1, String(beats));
  assert.ok(burst > 1 && burst <= 3, String(burst));
});

test('the same seed gives the same life, and another seed another', async () => {
  const short = { ...LIFE, length: 3 * MINUTE };
  const [one, again, other] = [await simulate(short), await simulate(short), await simulate({ ...short, seed: 9 })];
  assert.deepEqual(one, again);
  assert.notDeepEqual(one, { ...other, seed: 1 });
});

// The meter itself: each of these is wrong on purpose, and must be seen.

test('the meter sees clones that nobody notices, when agents prove nothing', async () => {
  const { undetectedClones } = await simulate({ ...LIFE, proves: false, happenings: ['clone'] });
  assert.ok(undetectedClones > 0);
});

test('the meter sees false deaths, when leases count wall time', async () => {
  const makeClock = (_listened: number, now: () => number): Clock => ({
    now,
    listening: now,
    gapEndedAt: () => undefined,
  });
  const { falseDeaths } = await simulate({ ...LIFE, makeClock, happenings: ['setRegistryClock', 'pause'] });
  const { falseDeaths: none } = await simulate({ ...LIFE, happenings: ['setRegistryClock', 'pause'] });
  assert.ok(falseDeaths > 0);
  assert.equal(none, 0);
});

test('the meter sees dead VMs on offer, when the registry forgives all silence', async () => {
  const makeClock = (_listened: number, now: () => number): Clock => ({
    now,
    listening: () => 1,
    gapEndedAt: () => undefined,
  });
  const { ghosts } = await simulate({ ...LIFE, makeClock, happenings: ['kill'] });
  assert.ok(ghosts > 0);
});

test('the meter sees bursts, when agents all beat on the same second', async () => {
  const { burst } = await simulate({
    ...LIFE,
    vms: 300,
    length: 2 * MINUTE,
    pause: () => 10_000,
    happenings: ['massRestart'],
  });
  assert.ok(burst > 20, String(burst));
});
