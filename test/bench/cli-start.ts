/** Start-up of commands, from a shell's exec to their exit, over that of a Node that does nothing. */
import { execFileSync } from 'node:child_process';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { idOf } from './fleet.ts';
import type { Lab } from './lab.ts';
import { type Line, median, type Pair, type Row } from './row.ts';

/** Runs of each command for each turn of the other rows: a run takes a tenth of such a turn. */
const RUNS_PER_TURN = 5;

const COMMANDS: readonly { name: string; args: readonly string[]; goal: string }[] = [
  { name: 'addr', args: ['addr', 'infra'], goal: '≤ 1.35' },
  { name: 'url', args: ['url', 'infra', '--service', 'pi-rpc'], goal: '≤ 1.35' },
  { name: 'heartbeat', args: ['heartbeat', idOf(0)], goal: '≤ 1.4' },
  { name: 'version', args: ['version'], goal: '≤ 1.4' },
  { name: 'ls', args: ['ls', '-o', 'table'], goal: '≤ 1.7' },
  { name: 'help', args: ['--help'], goal: '≤ 1.6' },
  { name: 'complete', args: ['__complete', 'bash', 'vreg addr ', ' \t\n', '9', '80'], goal: '≤ 1.6' },
];

export const CLI_ROWS: readonly Row[] = COMMANDS.map(({ name: command, args, goal }) => {
  const name = `cli-${command}`;
  return {
    name,
    group: 'cli',
    isPerFleet: false,
    measure: async (lab) => [{ name, unit: 'ms', over: 'node -e 0', goal, ...(await measureStart(lab, args)) }],
  };
});

async function measureStart(lab: Lab, args: readonly string[]): Promise<Pick<Line, 'vreg' | 'floor' | 'cpu'>> {
  const { url } = await lab.daemon('open');
  const env = cleanEnv(lab.home, { VERS_INFRA_URL: url });
  const runs = { vreg: [] as Run[], floor: [] as Run[] };
  for (let turn = 0; turn <= lab.options.turns * RUNS_PER_TURN; turn++) {
    runs.vreg.push(timed([BIN, ...args], env));
    runs.floor.push(timed(['-e', '0'], env));
  }
  // The first run of each fills the page cache.
  const medianOf = (figure: keyof Run): Pair => ({
    vreg: median(runs.vreg.slice(1).map((run) => run[figure])),
    floor: median(runs.floor.slice(1).map((run) => run[figure])),
  });
  return { ...medianOf('wall'), cpu: medianOf('cpu') };
}

interface Run {
  /** Milliseconds. */
  wall: number;
  /** Microseconds. */
  cpu: number;
}

/** Bash prints the times of a child, which Node does not report. */
const TIMED = `TIMEFORMAT='%3R %3U %3S'; time "$@" </dev/null >/dev/null 2>&3`;

function timed(args: readonly string[], env: NodeJS.ProcessEnv): Run {
  const words = ['-c', `{ ${TIMED}; } 3>/dev/null 2>&1`, 'bash', process.execPath, ...args];
  const [wall, user, system] = execFileSync('bash', words, { env, encoding: 'utf8' }).split(' ').map(Number);
  return { wall: wall! * 1000, cpu: (user! + system!) * 1e6 };
}
