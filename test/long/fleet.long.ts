/** Simulates a fleet with many seeds. To examine a seed that fails, run `npm run sim -- --seed N`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type FleetOptions, simulate } from '../sim/fleet.ts';

const SEEDS = 20;

test(`in ${SEEDS} simulations no live VM goes stale, no clone stays undetected and discover returns no dead VM`, async () => {
  for (let seed = 100; seed < 100 + SEEDS; seed++) {
    const report = await simulate({ seed, vms: 80, length: 20 * 60_000, every: 12_000 });
    const { falseDeaths, undetectedClones, ghosts } = report;
    const wrong = { falseDeaths, undetectedClones, ghosts };
    assert.deepEqual(wrong, { falseDeaths: 0, undetectedClones: 0, ghosts: 0 }, JSON.stringify(report));
  }
});

test('a fleet of 2000 VMs survives an hour of faults', async () => {
  const { falseDeaths, undetectedClones, ghosts } = await simulate({
    seed: 7,
    vms: 2000,
    length: 60 * 60_000,
    every: 20_000,
    lease: 300_000,
  });
  assert.deepEqual({ falseDeaths, undetectedClones, ghosts }, { falseDeaths: 0, undetectedClones: 0, ghosts: 0 });
});

for (const incident of ['stopRegistry', 'killRegistry', 'partition', 'copyRegistry'] as const) {
  test(`during and after ${incident} at most three times the mean of the requests arrive in any 100 ms`, async () => {
    const { burst, falseDeaths } = await simulate({
      seed: 1,
      vms: 200,
      length: 20 * 60_000,
      every: 10_000,
      incidents: [incident],
    });
    assert.ok(burst > 1 && burst <= 3, String(burst));
    assert.equal(falseDeaths, 0);
  });
}

test('VMs that are removed, recreated or rewound, and registries that are restored or copied, cause no false death', async () => {
  const incidents = ['remove', 'recreate', 'rewind', 'restoreRegistry', 'copyRegistry'] as const;
  const { falseDeaths, ghosts } = await simulate({ seed: 1, vms: 60, length: 20 * 60_000, every: 10_000, incidents });
  assert.deepEqual({ falseDeaths, ghosts }, { falseDeaths: 0, ghosts: 0 });
});

const MANY: FleetOptions = { seed: 1, vms: 3000, length: 90_000, every: 40_000, incidents: ['massRestart'] };

test('3000 agents that start at the same moment send at most three times the mean number of requests in any 100 ms', async () => {
  const { burst, requests, incidentCounts } = await simulate(MANY);
  assert.ok(requests > 20_000 && incidentCounts.massRestart === 1, String(requests));
  assert.ok(burst > 1 && burst <= 3, String(burst));
});
