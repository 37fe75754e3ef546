/** Simulates a fleet with many seeds. To examine a seed that fails, run `npm run sim -- --seed N`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type FleetOptions, simulate } from '../sim/fleet.ts';

const SEEDS = 60;

/**
 * Share of clones that may stay undetected. If the registry is restored while the claims of a clone are undecided, the clone can
 * begin a new claim each time.
 */
const MAX_UNDETECTED = 0.01;

test(`in ${SEEDS} simulations no live VM goes stale, discover returns no dead VM, and nearly all clones are detected`, async () => {
  const total = { clones: 0, undetected: 0 };
  for (let seed = 100; seed < 100 + SEEDS; seed++) {
    const report = await simulate({ seed, vms: 80, length: 20 * 60_000, every: 12_000 });
    const { falseDeaths, ghosts } = report;
    assert.deepEqual({ falseDeaths, ghosts }, { falseDeaths: 0, ghosts: 0 }, JSON.stringify(report));
    total.clones += report.clones;
    total.undetected += report.undetectedClones;
  }
  assert.ok(total.undetected <= MAX_UNDETECTED * total.clones, JSON.stringify(total));
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

const MANY: FleetOptions = { seed: 1, vms: 3000, length: 90_000, every: 40_000, incidents: ['massRestart'] };

test('3000 agents that start at the same moment send at most three times the mean number of requests in any 100 ms', async () => {
  const { burst, requests, incidentCounts } = await simulate(MANY);
  assert.ok(requests > 20_000 && incidentCounts.massRestart === 1, String(requests));
  assert.ok(burst > 1 && burst <= 3, String(burst));
});
