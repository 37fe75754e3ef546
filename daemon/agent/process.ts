/** The agent's process: its files, its life, its last word. */
import { execFile } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import type { RegistryClient } from '../../src/client.ts';
import type { OnClone, OnExit } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { logMask } from '../process/log.ts';
import { readProcesses, removeProcessInfo, writeProcessInfo } from '../process/pid-file.ts';
import { makeStateDir, warnOfOpenFolder } from '../process/state-dir.ts';
import { type AddressFilesOptions, writeAddressFiles } from './address-files.ts';
import { Agent } from './agent.ts';
import { createCloneHandler } from './clone.ts';
import { type HealthCheckOptions, HealthChecks } from './health-checks.ts';
import { Identity } from './identity.ts';
import { type AgentLog, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';
import { watchTimeJumps } from './time-jump.ts';
import { repairTokenFile, writeTokenFile } from './token-file.ts';

/** Milliseconds that systemd is given to say whether the machine goes down. */
const SYSTEMCTL_TIMEOUT = 1000;

/** What a reload may change. */
export interface AgentSettings {
  client: RegistryClient;
  /** For the last word, which must not hang on the aborted signal of the other. Made now: its files may be broken by then. */
  exitClient: RegistryClient;
  /** The VM under its own id, or under that of a clone of it. */
  vmOf(id: string): Registration;
  /** Milliseconds. */
  interval: number;
  onExit: OnExit;
  /** Not to be in the log: its token, and what its commands find in their environment. */
  secrets: readonly string[];
}

export interface AgentProcessOptions extends AgentSettings {
  /** The VM's id. */
  id: string;
  /** Where `vreg daemon status` looks for the agent, and where the VM's identity is kept. */
  stateDir: string;
  onClone: OnClone;
  idCommand?: string | undefined;
  rebirthHooks: readonly string[];
  /** Where the addresses of live VMs are kept as files; nowhere when nothing is said. */
  addressFiles?: Omit<AddressFilesOptions, 'now'> | undefined;
  /** Probes the VM's services; not when nothing is said. */
  checks?: HealthCheckOptions | undefined;
  onReady(trouble?: string): void;
  /** Called whenever the registry goes away, and with nothing when it is back. */
  onOutage?(trouble?: string): void;
  /** Called after each beat that the registry took. */
  onHeartbeat?(beat: { lastSeen: string }): void;
  /** Calls back whenever the settings shall be read anew; they are then what it is handed. */
  onReload(reload: (read: () => AgentSettings) => void): void;
}

/**
 * Runs until the signal is aborted.
 * @throws VregError as {@link Agent.run}; ALREADY_RUNNING when an agent keeps this VM alive with this state dir; STORE_UNUSABLE
 */
export async function runAgent(options: AgentProcessOptions, log: AgentLog, signal: AbortSignal): Promise<void> {
  const { stateDir } = options;
  for (const secret of options.secrets) logMask.add(secret);
  makeStateDir(stateDir);
  warnOfOpenFolder(stateDir, log);
  let identity = Identity.open(stateDir, options.id, { onWarning: (message) => log.warn({ id: options.id }, message) });
  let vm = registrationOf(options, identity);
  let { client, exitClient, onExit } = options;
  assertSingleAgent(stateDir, vm.id);
  if (identity.bearer !== undefined) repairTokenFile(stateDir, identity.bearer, log);
  writeProcessInfo(stateDir, { kind: 'agent', urls: [client.url], vm: vm.id });

  let checks: HealthChecks | undefined;
  const probeServices = () => {
    checks?.stop();
    checks = options.checks && new HealthChecks(vm.services ?? [], options.checks, () => agent.heartbeatNow());
  };
  const contact = (): RegistrySessionOptions => ({
    client,
    vm,
    identity,
    onExit,
    health: options.checks && (() => checks?.report()),
    onToken: (token) => writeTokenFile(stateDir, token, log),
    registerIfMissing: true,
    log,
  });
  const onRebirth = (reborn: Identity) => {
    removeProcessInfo(stateDir, 'agent', vm.id);
    identity = reborn;
    vm = registrationOf(options, identity);
    writeProcessInfo(stateDir, { kind: 'agent', urls: [client.url], vm: vm.id });
  };
  const agent: Agent = new Agent({
    ...contact(),
    interval: options.interval,
    announce: true,
    onClone: createCloneHandler({
      policy: options.onClone,
      idCommand: options.idCommand,
      hooks: options.rebirthHooks,
      identity,
      vm,
      vmOf: options.vmOf,
      onRebirth,
      log,
    }),
    sleep: (ms, until) => setTimeout(ms, undefined, { signal: until }),
    onReady: options.onReady,
    ...(options.onOutage ? { onOutage: options.onOutage } : {}),
    onContact: () => updateAddressFiles(options.addressFiles, client, log),
    ...(options.onHeartbeat ? { onHeartbeat: options.onHeartbeat } : {}),
  });
  options.onReload((read) => {
    try {
      const settings = read();
      for (const secret of settings.secrets) logMask.add(secret);
      vm = registrationOf(settings, identity);
      ({ client, exitClient, onExit } = settings);
      probeServices();
      agent.reload({ ...contact(), interval: settings.interval });
      log.info({ id: vm.id, registry: client.url }, 'read the settings anew');
    } catch (error) {
      log.warn({ id: vm.id }, `the settings cannot be read anew, and stay as they are: ${(error as Error).message}`);
    }
  });
  const stopWatching = watchTimeJumps((ms) => {
    log.info({ ms }, 'time has jumped: this VM was suspended, this process stopped, or the clock set; beating now');
    agent.heartbeatNow();
  });
  probeServices();
  try {
    await agent.run(signal);
    await new RegistrySession({ ...contact(), client: exitClient, onExit: await effectiveOnExit(onExit) }).deregister();
    exitClient.close();
  } finally {
    stopWatching();
    client.close();
    checks?.stop();
    removeProcessInfo(stateDir, 'agent', vm.id);
  }
}

/** The registration under the id that this VM has by now, a clone's with the VM that it was copied from. */
function registrationOf({ vmOf }: Pick<AgentSettings, 'vmOf'>, { id, parent }: Identity): Registration {
  return { ...vmOf(id), ...(parent === undefined ? {} : { parentId: parent }) };
}

/** Two agents of one VM would speak against each other when the first of them stops. */
function assertSingleAgent(stateDir: string, id: string): void {
  const other = readProcesses(stateDir, 'agent').find((info) => info.vm === id);
  if (!other) return;
  throw new VregError('ALREADY_RUNNING', `an agent for VM "${id}" runs already: pid ${other.pid}`, {
    hint: 'stop it (vreg daemon stop agent), or give this one another --id',
  });
}

async function updateAddressFiles(
  runDir: AgentProcessOptions['addressFiles'],
  client: RegistryClient,
  log: AgentLog,
): Promise<void> {
  if (!runDir) return;
  try {
    const vms = await client.list({ status: 'running' });
    writeAddressFiles(
      { ...runDir, now: Date.now },
      vms.filter(({ stale }) => !stale),
    );
  } catch (error) {
    // The files stay as they are, with their age: that is what they are for.
    log.warn(
      { dir: runDir.dir },
      `cannot bring the addresses in ${runDir.dir} up to date: ${(error as Error).message}`,
    );
  }
}

/** A machine that goes down comes back: its VM is not removed then, whatever its agent is told to do when it stops. */
async function effectiveOnExit(onExit: OnExit): Promise<OnExit> {
  if (onExit !== 'deregister') return onExit;
  const state = await new Promise<string>((resolve) => {
    // It ends with 1 while the machine goes down, and prints `stopping` all the same (systemctl(1)).
    execFile('systemctl', ['is-system-running'], { timeout: SYSTEMCTL_TIMEOUT }, (_error, stdout) =>
      resolve(stdout.trim()),
    );
  });
  return state === 'stopping' ? 'stopped' : onExit;
}
