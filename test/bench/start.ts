/** Start of the daemon with the stored fleet, and its memory when every VM has sent a heartbeat. */
import { heartbeatAll } from './heartbeats.ts';
import { median, type Row } from './row.ts';
import type { Usage } from './servers.ts';

/** A larger fleet is started once, because that takes long enough for a precise figure. */
const MAX_REPEATED = 100_000;
/** The size of the fleet to which the goals apply. */
const MILLION = 1_000_000;
const BYTES_PER_MIB = 2 ** 20;
const MS_PER_S = 1000;

export const START_ROWS: readonly Row[] = [
  {
    name: 'start',
    group: 'store',
    isPerFleet: true,
    async measure(lab) {
      const times: number[] = [];
      const usages: Usage[] = [];
      const dataDir = await lab.copyFleet('start');
      for (let turn = 0; turn < (lab.vms <= MAX_REPEATED ? lab.options.turns : 1); turn++) {
        const daemon = await lab.startDaemon(dataDir);
        times.push(daemon.startTime / MS_PER_S);
        await heartbeatAll(daemon, lab.vms);
        usages.push(await daemon.probe.usage());
        await daemon.end();
      }
      const { memory: floor } = await (await lab.raw('open')).probe.usage();
      const [memory, peak] = [usages.map((usage) => usage.memory), usages.map((usage) => usage.peak)];
      const inMemory = { unit: 'MiB', over: 'node:http', floor: floor / BYTES_PER_MIB } as const;
      return [
        { name: 'start', unit: 's', vreg: median(times), goal: lab.vms === MILLION ? '≤ 10 s' : '' },
        {
          name: 'memory',
          ...inMemory,
          vreg: median(memory) / BYTES_PER_MIB,
          goal: lab.vms === MILLION ? '≤ 1430 MiB' : '',
        },
        { name: 'memory-peak', ...inMemory, vreg: median(peak) / BYTES_PER_MIB },
      ];
    },
  },
];
