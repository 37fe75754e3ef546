/** Memory of an agent, over a Node process that does nothing. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PATHS } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { readBody, type Target } from './load.ts';
import type { Row } from './row.ts';
import { endProcess, Probe, spawnProbed } from './servers.ts';

const ID = 'vm-agent';
/** Milliseconds between two heartbeats. */
const INTERVAL = 50;
/** Heartbeats for each turn of the other rows: after a hundred, the memory stays about the same. */
const HEARTBEATS_PER_TURN = 20;
const BYTES_PER_MB = 1e6;

export const AGENT_ROWS: readonly Row[] = [
  {
    name: 'agent-memory',
    group: 'agent',
    isPerFleet: false,
    async measure(lab) {
      const daemon = await lab.daemon('open');
      const env = cleanEnv(lab.home, { VERS_INFRA_URL: daemon.url, VERS_VM_ID: ID });
      const agent = spawnProbed([BIN, 'daemon', 'agent', '--interval', `${INTERVAL}ms`, '--log-level', 'warn'], env);
      const bare = spawnProbed(['-e', 'setInterval(() => {}, 1000)'], env);
      try {
        await heartbeatsOf(ID, daemon, lab.options.turns * HEARTBEATS_PER_TURN);
        const [vreg, floor] = await Promise.all([agent, bare].map((child) => new Probe(child).usage()));
        const figures = { vreg: vreg!.memory / BYTES_PER_MB, floor: floor!.memory / BYTES_PER_MB };
        return [{ name: 'agent-memory', unit: 'MB', over: 'node -e 0', ...figures, goal: '≤ 60 MB' }];
      } finally {
        await Promise.all([endProcess(agent), endProcess(bare)]);
      }
    },
  },
];

/** Waits until a VM has registered and sent some heartbeats. */
async function heartbeatsOf(id: string, target: Target, count: number): Promise<void> {
  const seen = new Set<string>();
  while (seen.size < count) {
    const { vms } = JSON.parse((await readBody(target, 'GET', PATHS.vms)).toString()) as { vms: Vm[] };
    for (const vm of vms) if (vm.id === id) seen.add(vm.lastSeen);
    await sleep(INTERVAL);
  }
}
