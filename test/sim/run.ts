/** `npm run sim -- --seed 1 --vms 500 --minutes 60` runs simulations of a fleet and prints their reports. */
import { parseArgs } from 'node:util';
import { simulate } from './fleet.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    vms: { type: 'string', default: '200' },
    minutes: { type: 'string', default: '30' },
    every: { type: 'string', default: '15' },
    json: { type: 'boolean', default: false },
  },
});
const first = Number(values.seed);
for (let seed = first; seed < first + Number(values.seeds); seed++) {
  const report = await simulate({
    seed,
    vms: Number(values.vms),
    length: Number(values.minutes) * 60_000,
    every: Number(values.every) * 1000,
  });
  console.log(values.json ? JSON.stringify(report) : report);
}
