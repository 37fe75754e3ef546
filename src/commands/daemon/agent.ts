import { join } from 'node:path';
import type { AgentSettings } from '../../../daemon/agent/process.ts';
import type { AgentLog } from '../../../daemon/agent/registry-session.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import { parseDuration } from '../../config/values.ts';
import { quotePosix, variablesOfRole } from '../../fleet/env.ts';
import { META_FLAG, parsePid, SERVICE_FLAG, WHILE_PID_FLAG } from '../../fleet/flags.ts';
import { findMetadata, findVmId, type ThisVmFlags, thisVm } from '../../fleet/local-vm.ts';
import { urlOrFault } from '../../fleet/vm-url.ts';
import type { OnClone, OnExit } from '../../protocol/api.ts';
import { timerDelay } from '../../protocol/duration.ts';
import { VregError } from '../../protocol/errors.ts';
import type { Vm } from '../../protocol/vm.ts';
import {
  createLog,
  DETACH,
  dataDirOf,
  detach,
  LOG_SETTINGS,
  reportingFailure,
  startLifecycle,
  VM_SETTINGS,
} from './process.ts';

/** Milliseconds between two checks of the programs for which the agent runs. */
const CALLER_INTERVAL = 1000;

/**
 * Time limit in milliseconds for the request that the agent sends when it stops. Well below the 10 s that the unit allows for
 * stopping.
 */
const SIGN_OFF_TIMEOUT = 3500;

/** Defaults of the health checks, as in Consul (interval) and HAProxy (rise, fall). */
const CHECKS = { interval: '10s', timeout: '2s', rise: 2, fall: 3 };

interface Flags extends ThisVmFlags {
  detach?: boolean;
  check?: boolean;
  checkInterval?: string;
  checkTimeout?: string;
  checkRise?: string;
  checkFall?: string;
  rebirthHook?: string[];
  whilePid?: string;
}

const CHECK_FLAGS: readonly Flag[] = [
  { flags: '--check', about: "probe this VM's services and report their health" },
  { flags: '--check-interval <duration>', about: `time between probes of a service (default: ${CHECKS.interval})` },
  { flags: '--check-timeout <duration>', about: `time limit for a probe (default: ${CHECKS.timeout})` },
  { flags: '--check-rise <n>', about: `successful probes in a row that make a service pass (default: ${CHECKS.rise})` },
  { flags: '--check-fall <n>', about: `failed probes in a row that make a service fail (default: ${CHECKS.fall})` },
];

export const agent = defineCommand<Flags>({
  name: 'agent',
  summary: 'register this VM and keep it alive',
  description:
    'Registers this VM and sends heartbeats. While the registry is unreachable, the agent retries with growing delays; if the registry has lost the entry, the agent registers the VM again. On SIGTERM, the agent sets the status of the VM to stopped (see --on-exit) and exits; on SIGHUP, it reloads the settings. With --while-pid, it stops when that process, and each one that vreg hook start has added, has exited. Each heartbeat contains a proof of identity. If another incarnation of the VM is sending heartbeats, the agent exits with 9 or acts according to --on-clone; once the other one has been silent for one lease period, the agent is accepted.',
  settings: [...VM_SETTINGS, 'interval', 'on-exit', 'on-clone', 'id-command', 'run-dir', ...LOG_SETTINGS],
  flags: [
    SERVICE_FLAG,
    META_FLAG,
    ...CHECK_FLAGS,
    {
      flags: '--rebirth-hook <command>',
      about: 'shell command to run after a clone receives its new id (in VREG_ID)',
      repeat: true,
    },
    WHILE_PID_FLAG,
    DETACH,
  ],
  examples: [
    {
      about: 'take the settings from the environment',
      command: 'VERS_INFRA_URL=http://10.0.0.5:3000 vreg daemon agent',
    },
    {
      about: 'a lieutenant with a service and a health check',
      command: 'vreg daemon agent --role lieutenant --service pi-rpc:3001/health --check',
    },
    { about: 'in a golden image: each clone takes a new id', command: 'vreg daemon agent --on-clone rebirth' },
    { about: 'run in the background', command: 'vreg daemon agent --detach' },
  ],
  reloadsOnHangup: true,
  exits: [2, 4, 9],
  run: (context, _args, flags) => reportingFailure(context, runAgent(context, flags)),
});

async function runAgent(context: Context, flags: Flags): Promise<void> {
  const { config } = context;
  const stateDir = dataDirOf(context);
  const caller = flags.whilePid === undefined ? undefined : parsePid(flags.whilePid);
  const checks = checksOf(flags);
  const logFile = join(stateDir, 'agent.log');
  if (flags.detach) return detach(context, 'agent', logFile);
  const main = await import('../../../daemon/agent/process.ts');
  const processLog = await createLog(context, logFile);
  const { log } = processLog;
  const { value: id, origin: idOrigin } = findVmId(config);
  let status = 'starting';
  const lifecycle = await startLifecycle(context, processLog, () => status);
  const settings = settingsOf(context, flags, log);
  const ended = new AbortController();
  const until = AbortSignal.any([context.signal, ended.signal]);
  const signal = caller === undefined ? context.signal : await whileCalled(context, stateDir, caller, log, until);
  const running = main.runAgent(
    {
      ...settings,
      id,
      idOrigin,
      addedMetadata: findMetadata(config, id),
      stateDir,
      onClone: config.get('on-clone') as OnClone,
      idCommand: config.get('id-command'),
      rebirthHooks: flags.rebirthHook ?? [],
      addressFiles: addressFilesOf(context),
      checks,
      onReady: (warning) => {
        status = warning ?? `registered with ${settings.client.url}`;
        // The agent is ready even if the registry is unreachable: units that wait for the agent must not wait for the
        // registry.
        void lifecycle.ready(warning);
      },
      onOutage: (reason) => {
        status = reason === undefined ? 'the registry is reachable again' : `retrying: ${reason}`;
      },
      onHeartbeat: ({ lastSeen }) => {
        status = `last heartbeat ${lastSeen}`;
      },
      onRunning: (apply) =>
        lifecycle.reloadOnHangup([
          {
            what: 'the settings',
            reload() {
              config.reload();
              apply(settingsOf(context, flags, log));
            },
          },
        ]),
    },
    log,
    signal,
  );
  // Otherwise, the search for callers would keep the process of an agent running that has failed.
  await running.finally(() => ended.abort());
  await lifecycle.stopping();
}

/**
 * @param until ends the search for these programs
 * @returns a signal that is aborted when no program for which the agent runs is left, and with `until`
 */
async function whileCalled(
  context: Context,
  stateDir: string,
  pid: number,
  log: AgentLog,
  until: AbortSignal,
): Promise<AbortSignal> {
  const { addCaller, hasCaller } = await import('../../../daemon/process/callers.ts');
  addCaller(stateDir, pid);
  const left = new AbortController();
  const watch = async () => {
    while (hasCaller(stateDir)) await context.sleep(CALLER_INTERVAL, until);
    log.info({}, 'the program for which this agent ran has exited: stopping');
    left.abort();
  };
  // The sleep is rejected when the agent stops for another reason.
  watch().catch(() => {});
  return AbortSignal.any([until, left.signal]);
}

/** Reads the current settings. @throws VregError USAGE or INVALID naming the setting */
function settingsOf(context: Context, flags: Flags, log: AgentLog): AgentSettings {
  const { config, env } = context;
  // Validate the flags now instead of when a clone needs them.
  thisVm(config, flags);
  return {
    client: context.freshClient({ warn: (message) => log.warn({}, message) }),
    exitClient: context.lastClient(SIGN_OFF_TIMEOUT),
    vmOf: (id) => thisVm(config, flags, id),
    interval: config.duration('interval'),
    onExit: config.get('on-exit') as OnExit,
    secrets: [config.clientToken()?.value, env.VREG_TOKEN, env.VERS_AUTH_TOKEN].map((secret = '') => secret.trim()),
  };
}

function addressFilesOf(context: Context) {
  const dir = context.config.runDir;
  if (dir === undefined) return undefined;
  const { urls } = context.client();
  return {
    dir,
    urlOf: (vm: Vm) => urlOrFault(vm, urls),
    envOf: (live: ReadonlyMap<string, readonly Vm[]>) =>
      [...live]
        .flatMap(([role, [oldest, ...others]]) =>
          oldest ? Object.entries(variablesOfRole(role, [oldest, ...others], urls).variables) : [],
        )
        .map(([name, value]) => `${name}=${quotePosix(value)}\n`)
        .join(''),
  };
}

/** @throws VregError USAGE also if a flag changes checks that are not enabled */
function checksOf({ check, checkInterval, checkTimeout, checkRise, checkFall }: Flags) {
  const checks = {
    interval: timerDelay(parseDuration(checkInterval ?? CHECKS.interval, '--check-interval')),
    timeout: timerDelay(parseDuration(checkTimeout ?? CHECKS.timeout, '--check-timeout')),
    rise: countOf(checkRise, '--check-rise') ?? CHECKS.rise,
    fall: countOf(checkFall, '--check-fall') ?? CHECKS.fall,
  };
  if (check) return checks;
  const given = Object.entries({ interval: checkInterval, timeout: checkTimeout, rise: checkRise, fall: checkFall });
  const unused = given.find(([, value]) => value !== undefined);
  if (!unused) return undefined;
  throw new VregError('USAGE', `--check-${unused[0]} requires --check`, {
    field: `check-${unused[0]}`,
    hint: 'pass --check, which makes the agent probe the services of this VM',
  });
}

function countOf(text: string | undefined, flag: string): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  throw new VregError('USAGE', `invalid ${flag} "${text}"`, {
    field: flag.slice(2),
    hint: 'use a whole number from 1 to 999',
  });
}
