/** Start-up of commands, from a shell's exec to their exit, over that of a Node that does nothing, or only sends the same request. */
import { execFileSync } from 'node:child_process';
import { PATHS } from '../../src/protocol/api.ts';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { idOf } from './fleet.ts';
import type { Lab } from './lab.ts';
import { type Line, median, type Row } from './row.ts';

/** Runs of each command for each turn of the other rows: a run takes a tenth of such a turn. */
const RUNS_PER_TURN = 5;

const COMMANDS: readonly Command[] = [
  { name: 'addr', args: ['addr', 'infra'], goal: '≤ 1.35', asks: ['GET', '/registry/discover/infra'] },
  {
    name: 'url',
    args: ['url', 'infra', '--service', 'pi-rpc'],
    goal: '≤ 1.35',
    asks: ['GET', '/registry/discover/infra'],
  },
  {
    name: 'heartbeat',
    args: ['heartbeat', idOf(0)],
    goal: '≤ 1.4',
    asks: ['POST', `${PATHS.vms}/${idOf(0)}/heartbeat`],
  },
  { name: 'version', args: ['version'], goal: '≤ 1.4' },
  { name: 'ls', args: ['ls', '-o', 'table'], goal: '≤ 1.7', asks: ['GET', PATHS.vms] },
  { name: 'help', args: ['--help'], goal: '≤ 1.6' },
  { name: 'complete', args: ['__complete', 'bash', 'vreg addr ', ' \t\n', '9', '80'], goal: '≤ 1.6' },
];

interface Command {
  name: string;
  args: readonly string[];
  /** For the time over that of a Node that does nothing. */
  goal: string;
  /** Method and path of its request. */
  asks?: readonly [method: string, path: string];
}

/** A program that sends one request through `node:http` and prints the body of the response, without a check of either. */
const ONE_REQUEST = `
  const [url, method] = process.argv.slice(1);
  require('node:http').request(url, { method, agent: false }, (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part) => (text += part));
    response.on('end', () => process.stdout.write(JSON.stringify(JSON.parse(text)), () => process.exit()));
  }).end();
`;

export const CLI_ROWS: readonly Row[] = COMMANDS.map((command) => {
  const name = `cli-${command.name}`;
  return {
    name,
    group: 'cli',
    isPerFleet: false,
    measure: async (lab) => (await measureStart(lab, command)).map((line) => ({ name, unit: 'ms', ...line })),
  };
});

/** @returns the line over a Node that does nothing, and that over a Node that sends the request of the command, if it sends one */
async function measureStart(lab: Lab, { args, goal, asks }: Command): Promise<Omit<Line, 'name' | 'unit'>[]> {
  const { url } = await lab.daemon('open');
  const env = cleanEnv(lab.home, { VERS_INFRA_URL: url });
  const programs = [[BIN, ...args], ['-e', '0'], ...(asks ? [['-e', ONE_REQUEST, url + asks[1], asks[0]]] : [])];
  const runs = programs.map((): Run[] => []);
  for (let turn = 0; turn <= lab.options.turns * RUNS_PER_TURN; turn++)
    for (const [index, program] of programs.entries()) runs[index]!.push(timed(program, env));
  // The first run of each fills the page cache.
  const [vreg, nothing, request] = runs.map((each) => ({
    wall: median(each.slice(1).map(({ wall }) => wall)),
    cpu: median(each.slice(1).map(({ cpu }) => cpu)),
  }));
  const over = (floor: Run) => ({ vreg: vreg!.wall, floor: floor.wall, cpu: { vreg: vreg!.cpu, floor: floor.cpu } });
  return [
    { over: 'node -e 0', goal, ...over(nothing!) },
    ...(request ? [{ over: 'node -e, one request with node:http', ...over(request) }] : []),
  ];
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
