/** Memory of an agent, over a Node process that does nothing. */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATHS } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { killAtExit } from './cleanup.ts';
import { readBody, type Target } from './load.ts';
import type { Row } from './row.ts';
import { endProcess } from './servers.ts';

const ID = 'vm-agent';
/** Seconds between two heartbeats, between which V8 collects garbage as in an agent with the default interval. */
const INTERVAL = 1;
/** Heartbeats for each turn of the other rows: V8 collects the garbage of the start within 20 s. */
const HEARTBEATS_PER_TURN = 4;
/** Milliseconds between two looks at the entry. */
const POLL = 100;
/** The unit of `ps`. */
const KIB_PER_MIB = 1024;

export const AGENT_ROWS: readonly Row[] = [
  {
    name: 'agent-memory',
    group: 'agent',
    isPerFleet: false,
    async measure(lab) {
      const daemon = await lab.daemon('open');
      const env = cleanEnv(lab.home, { VERS_INFRA_URL: daemon.url, VERS_VM_ID: ID });
      const options: SpawnOptions = { env, stdio: ['ignore', 'ignore', 'inherit'] };
      const start = (...args: string[]) => killAtExit(spawn(process.execPath, args, options));
      const agent = start(BIN, 'daemon', 'agent', '--interval', `${INTERVAL}s`, '--log-level', 'warn');
      const bare = start('-e', 'setInterval(() => {}, 1000)');
      try {
        await heartbeatsOf(ID, daemon, lab.options.turns * HEARTBEATS_PER_TURN);
        const [vreg, floor] = [agent, bare].map(memoryOf);
        return [{ name: 'agent-memory', unit: 'MiB', over: 'node -e 0', vreg: vreg!, floor: floor!, goal: '≤ 60 MiB' }];
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
    await sleep(POLL);
  }
}

/** Resident set size. Without the probe of the other rows, which would add to it. */
function memoryOf({ pid }: ChildProcess): number {
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) / KIB_PER_MIB;
}
