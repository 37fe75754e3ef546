import { join } from 'node:path';
import type { OnExit } from '../../daemon/agent/agent.ts';
import type { LogFormat, LogLevel } from '../../daemon/log.ts';
import type { ProcessInfo } from '../../daemon/process-file.ts';
import { RegistryClient } from '../client.ts';
import { type Context, defineCommand, type Flag } from '../command.ts';
import { VregError } from '../protocol/errors.ts';
import { parseRegistration, type Registration, type Service } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import type { SettingKey } from '../settings.ts';
import { defaultAddress, type ThisVmFlags, thisVm, thisVmId } from '../this-vm.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../vm-flags.ts';

const LOG_SETTINGS: readonly SettingKey[] = ['data-dir', 'log-level', 'log-format'];
const VM_SETTINGS: readonly SettingKey[] = ['id', 'name', 'role', 'address', 'registered-by'];
const SERVE_SETTINGS: readonly SettingKey[] = [
  'host',
  'port',
  'socket',
  'stale-after',
  ...LOG_SETTINGS,
  ...VM_SETTINGS,
];
const DETACH: Flag = { flags: '--detach', about: 'go on in the background, with a pid file and a log in the data dir' };
const SERVE_FLAGS: readonly Flag[] = [
  { flags: '--self-register', about: "make the daemon's own VM an infra entry, and keep it alive" },
  SERVICE_FLAG,
  META_FLAG,
  DETACH,
];

/** Milliseconds for the agent's last word: the registry may be away just then, and systemd waits for the exit. */
const LAST_WORD = 3500;

interface ServeFlags extends ThisVmFlags {
  selfRegister?: boolean;
  detach?: boolean;
}

const serve = defineCommand<ServeFlags>({
  name: 'serve',
  summary: 'run the registry',
  description:
    'Runs the registry over a durable store, on 127.0.0.1:3000 unless told otherwise. VERS_AUTH_TOKEN or --token-file turns bearer authentication on; without it the daemon listens on loopback and a unix socket only. SIGTERM drains.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'on this machine', command: 'vreg daemon serve' },
    {
      about: 'for a fleet, as its infra VM',
      command: 'vreg daemon serve --host 0.0.0.0 --token-file /etc/vreg/token --self-register',
    },
    {
      about: 'in the background, on a socket alone',
      command: 'vreg daemon serve --socket /run/user/1000/vreg.sock --detach',
    },
  ],
  exits: [4],
  run: (context, args, flags) => orTell(runServe(context, args, flags)),
});

const agent = defineCommand<ThisVmFlags & { detach?: boolean }>({
  name: 'agent',
  summary: 'register this VM and keep it alive',
  description:
    'Registers this VM and beats for it. While the registry is away it tries again, with growing pauses; when the registry has forgotten the VM it registers it again. On SIGTERM the entry becomes stopped (see --on-exit).',
  settings: [...VM_SETTINGS, 'interval', 'on-exit', ...LOG_SETTINGS],
  flags: [SERVICE_FLAG, META_FLAG, DETACH],
  examples: [
    { about: 'with what the environment says', command: 'VERS_INFRA_URL=http://10.0.0.5:3000 vreg daemon agent' },
    {
      about: 'a lieutenant that offers a service',
      command: 'vreg daemon agent --role lieutenant --service pi-rpc:3001/health',
    },
    { about: 'in the background', command: 'vreg daemon agent --detach' },
  ],
  exits: [2, 4],
  run: (context, args, flags) => orTell(runAgent(context, args, flags)),
});

const status = defineCommand({
  name: 'status',
  summary: 'say which daemon and agent run here',
  description: 'Says which registry and which agent run with this data dir. None is exit code 3.',
  settings: ['data-dir'],
  examples: [
    { about: 'what runs here?', command: 'vreg daemon status' },
    {
      about: 'the pid of the registry',
      command: 'vreg daemon status -o json | jq \'.[] | select(.kind == "serve").pid\'',
    },
    { about: 'with another data dir', command: 'vreg daemon status --data-dir /var/lib/vreg' },
  ],
  exits: [3],
  async run(context) {
    const running = await findRunning(context, ['serve', 'agent']);
    await context.print(processesAnswer(running));
  },
});

const stop = defineCommand({
  name: 'stop',
  summary: 'stop the daemon or the agent that runs here',
  description: 'Asks the registry, the agent, or both to stop, and waits until they have.',
  arguments: [{ name: 'which', about: 'serve or agent (default: both)', optional: true, values: ['serve', 'agent'] }],
  settings: ['data-dir'],
  examples: [
    { about: 'all that runs here', command: 'vreg daemon stop' },
    { about: 'the agent alone', command: 'vreg daemon stop agent' },
    { about: 'with another data dir', command: 'vreg daemon stop serve --data-dir /var/lib/vreg' },
  ],
  exits: [2, 3, 6],
  async run(context, [which]) {
    if (which !== undefined && which !== 'serve' && which !== 'agent') {
      throw new VregError('USAGE', `cannot stop "${which}"`, { field: 'which', hint: 'one of: serve, agent' });
    }
    const running = await findRunning(context, which === undefined ? ['agent', 'serve'] : [which]);
    const { endProcesses } = await import('../../daemon/process-file.ts');
    const sleep = (ms: number) => context.sleep(ms);
    // An agent's last word is for the registry, which goes after it.
    for (const each of ['agent', 'serve'])
      await endProcesses(
        running.filter(({ kind }) => kind === each),
        sleep,
      );
    await context.print(processesAnswer(running));
  },
});

export const daemon = defineCommand<ServeFlags>({
  name: 'daemon',
  summary: 'run the registry, or the heartbeat agent of this VM',
  description:
    'Runs the registry (as vreg daemon serve) or, with a subcommand, the heartbeat agent of this VM; says what runs and stops it.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'the registry, on this machine', command: 'vreg daemon' },
    { about: 'the agent of a VM', command: 'vreg daemon agent --role worker' },
    { about: 'what runs here?', command: 'vreg daemon status' },
  ],
  exits: [4],
  commands: [serve, agent, status, stop],
  run: (context, args, flags) => orTell(runServe(context, args, flags)),
});

async function runServe(context: Context, _args: string[], flags: ServeFlags): Promise<void> {
  const { config, signal } = context;
  const dataDir = dataDirOf(context);
  if (flags.detach) return detach(context, 'serve', join(dataDir, 'daemon.log'));
  const socket = config.get('socket');
  // A socket alone is the whole listener; asking for a host or a port as well gives both.
  const tcp = socket === undefined || config.isSet('host') || config.isSet('port');
  const main = await import('../../daemon/main.ts');
  const log = await createLog(context);
  process.umask(0o077);
  const serving = await main.serve(
    {
      dataDir,
      staleAfter: config.duration('stale-after'),
      token: config.token()?.value,
      version: context.version,
      ...(tcp ? { tcp: { host: config.get('host')!, port: Number(config.get('port')) } } : {}),
      socket,
      self: flags.selfRegister ? (port) => selfOf(context, flags, port) : undefined,
    },
    log,
  );
  const line = `vreg ${context.version} listening on ${serving.urls.join(' and ')}, data in ${serving.dataDir}`;
  if (log.isLevelEnabled('info')) log.info({ urls: serving.urls, dataDir: serving.dataDir }, line);
  else context.note(line.replace(/^vreg /, ''));
  await tellReady();
  await aborted(signal);
  log.info('stopping: answering what was accepted');
  await serving.close();
  log.info('stopped');
}

async function runAgent(context: Context, _args: string[], flags: ThisVmFlags & { detach?: boolean }): Promise<void> {
  const { config } = context;
  const stateDir = dataDirOf(context);
  if (flags.detach) return detach(context, 'agent', join(stateDir, 'agent.log'));
  const main = await import('../../daemon/agent/main.ts');
  const log = await createLog(context);
  const client = context.client();
  await main.runAgent(
    {
      client,
      lastClient: () => new RegistryClient({ url: client.url, token: config.token()?.value, timeout: LAST_WORD }),
      vm: thisVm(config, flags),
      interval: config.duration('interval'),
      onExit: config.get('on-exit') as OnExit,
      stateDir,
      sleep: (ms) => context.sleep(ms),
      onUp: (trouble) => void tellReady(trouble),
    },
    log,
    context.signal,
  );
}

/** The infra VM as the original registry's set-up has it: board, feed and registry on the daemon's own port. */
function selfOf({ config }: Context, { service, meta }: ThisVmFlags, port: number | undefined): Registration {
  const id = thisVmId(config);
  const own: Service[] =
    port === undefined ? [] : ['board', 'feed', 'registry'].map((name) => ({ name, port, healthPath: '/health' }));
  return parseRegistration({
    id,
    name: config.get('name') ?? 'infra',
    role: config.isSet('role') ? config.get('role') : 'infra',
    address: config.get('address') ?? defaultAddress(id),
    registeredBy: config.get('registered-by') ?? 'self',
    services: service ? service.map(parseServiceFlag) : own,
    ...(meta ? { metadata: parseMetaFlags(meta) } : {}),
    status: 'running',
  });
}

async function detach(context: Context, kind: ProcessInfo['kind'], logFile: string): Promise<void> {
  const { startInBackground } = await import('../../daemon/background.ts');
  const { pid, trouble } = await startInBackground(
    context.argv.filter((word) => word !== '--detach'),
    logFile,
  );
  const started = (await findRunning(context, [kind])).filter((info) => info.pid === pid);
  await context.print(processesAnswer(started));
  if (trouble !== undefined) context.note(`${trouble}; it is tried again until it works`);
  context.note(`it goes on in the background; its log is ${logFile}`);
}

async function findRunning(context: Context, kinds: readonly ProcessInfo['kind'][]): Promise<ProcessInfo[]> {
  const { readProcesses } = await import('../../daemon/process-file.ts');
  const dir = dataDirOf(context);
  const running = kinds.flatMap((kind) => readProcesses(dir, kind));
  if (running.length === 0) {
    throw new VregError(
      'NO_LIVE',
      `no vreg ${kinds.length === 1 ? kinds[0] : 'daemon or agent'} runs with the data dir ${dir}`,
      {
        hint: `start one: vreg daemon ${kinds.includes('serve') ? '' : 'agent '}--detach, or name another --data-dir`,
      },
    );
  }
  return running;
}

function processesAnswer(rows: readonly ProcessInfo[]): RowsAnswer<ProcessInfo> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'KIND', cell: ({ kind }) => kind },
      { title: 'PID', cell: ({ pid }) => pid },
      { title: 'SINCE', cell: ({ since }) => ({ time: since }) },
      { title: 'URL', cell: ({ urls }) => urls.join(',') },
      { title: 'VM', cell: ({ vm }) => vm ?? '-' },
    ],
    name: ({ pid }) => String(pid),
    data: ({ kind, pid, since, urls, vm }) => ({ kind, pid, since, urls, ...(vm === undefined ? {} : { vm }) }),
  };
}

function dataDirOf({ config }: Context): string {
  return config.get('data-dir') ?? config.stateDir;
}

async function createLog({ config, io }: Context) {
  const { createLog } = await import('../../daemon/log.ts');
  const format = (config.get('log-format') ?? (process.stderr.isTTY ? 'pretty' : 'json')) as LogFormat;
  return createLog({ level: config.get('log-level') as LogLevel, format, color: io.errColor });
}

async function tellReady(trouble?: string): Promise<void> {
  await (await import('../../daemon/background.ts')).tellReady(trouble);
}

/** Whoever waits for a program in the background hears why it did not come up. */
async function orTell(running: Promise<void>): Promise<void> {
  return running.catch(async (error: unknown) => {
    await (await import('../../daemon/background.ts')).tellFailed(error);
    throw error;
  });
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
