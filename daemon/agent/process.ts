/**
 * The process of the agent: connects the agent to its files, its health checks and the reload of its settings.
 */
import { execFile } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import type { RegistryClient } from '../../src/client.ts';
import type { OnClone, OnExit } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { forScripts, type Registration } from '../../src/protocol/vm.ts';
import { watchTimeJumps } from '../clock.ts';
import { logMask } from '../process/log.ts';
import { readProcesses, removeProcessInfo, writeProcessInfo } from '../process/pid-file.ts';
import { assertPrivate, makeStateDir } from '../process/state-dir.ts';
import { type AddressFilesOptions, writeAddressFiles } from './address-files.ts';
import { Agent } from './agent.ts';
import { assertMayReplace, createCloneHandler } from './clone.ts';
import { type HealthCheckOptions, HealthChecks } from './health-checks.ts';
import { Identity, withIdentityLock } from './identity.ts';
import { type AgentLog, alternationWarning, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';
import { repairTokenFile, writeTokenFile } from './token-file.ts';

/** Milliseconds to wait for systemd to report whether the machine is shutting down. */
const SYSTEMCTL_TIMEOUT = 1000;

/** Settings that a reload can change. */
export interface AgentSettings {
  client: RegistryClient;
  /**
   * Signs the VM off after `client` has been aborted. Created early, because its certificate files may no longer exist at exit.
   */
  exitClient: RegistryClient;
  /** @returns the registration of this VM under its own id or, for a clone, under the id that it received */
  vmOf(id: string): Registration;
  /** Milliseconds between two heartbeats. */
  interval: number;
  onExit: OnExit;
  /** Texts to mask in the log: the agent's token, and tokens in the environment, which its commands inherit. */
  secrets: readonly string[];
}

export interface AgentProcessOptions extends AgentSettings {
  /** The VM's id, and the flag, variable or file that it comes from, for the log. */
  id: string;
  idOrigin: string;
  /** As in {@link RegistrySessionOptions}; for this id only, not for that of a clone. */
  addedMetadata?: Readonly<Record<string, unknown>> | undefined;
  /** Folder for the VM's identity, its token and the pid file. */
  stateDir: string;
  onClone: OnClone;
  idCommand?: string | undefined;
  rebirthHooks: readonly string[];
  /** Options for writing the addresses of live VMs to files. If absent, no files are written. */
  addressFiles?: Omit<AddressFilesOptions, 'now'> | undefined;
  /** Options for probing the VM's services. If absent, they are not probed. */
  checks?: HealthCheckOptions | undefined;
  /** Called once; with a warning if the first request failed and the agent keeps trying. */
  onReady(warning?: string): void;
  /** Called with the reason when the registry becomes unreachable, and without one when it is reachable again. */
  onOutage?(reason?: string): void;
  /** Called after each accepted heartbeat. */
  onHeartbeat?(result: { lastSeen: string }): void;
  /** Called once with a function that applies other settings to the running agent. */
  onRunning(apply: (settings: AgentSettings) => void): void;
}

/**
 * Runs until the signal is aborted, then signs the VM off.
 * @throws VregError as {@link Agent.run}; ALREADY_RUNNING if another agent for this VM is using this state dir; STORE_UNUSABLE
 */
export async function runAgent(options: AgentProcessOptions, log: AgentLog, signal: AbortSignal): Promise<void> {
  const { stateDir } = options;
  for (const secret of options.secrets) logMask.add(secret);
  makeStateDir(stateDir);
  if (options.addressFiles) assertPrivate(options.addressFiles.dir, 'run-dir');
  let { client, exitClient, onExit } = options;
  // With the lock, a second agent that starts at the same time finds the pid file of this one.
  let identity = await withIdentityLock(stateDir, options.id, async () => {
    const onWarning = (message: string) => log.warn({ id: options.id }, message);
    const opened = Identity.open(stateDir, options.id, { onWarning });
    assertSingleAgent(stateDir, opened.id);
    writeProcessInfo(stateDir, { kind: 'agent', urls: [...client.urls], vm: opened.id });
    return opened;
  });
  let vm = registrationOf(options, identity);
  const isReborn = identity.id !== options.id;
  const idOrigin = isReborn ? `the state in ${stateDir}, as a clone of "${options.id}"` : options.idOrigin;
  log.info({ id: identity.id, idOrigin }, `the id of this VM is "${identity.id}" (from ${idOrigin})`);
  if (identity.bearer !== undefined) repairTokenFile(stateDir, identity.bearer, log);
  /** Why the registry has not accepted the last request, for example because another VM claims the id. */
  let outage: string | undefined;
  const describeProcess = () => {
    const warning = identity.isAlternating ? alternationWarning(client.urls) : outage;
    writeProcessInfo(stateDir, {
      kind: 'agent',
      urls: [...client.urls],
      vm: vm.id,
      ...(warning === undefined ? {} : { warning }),
    });
  };
  const updateProcessInfo = () => {
    try {
      describeProcess();
    } catch (error) {
      log.warn({ id: vm.id }, `${(error as Error).message}; vreg daemon status is outdated`);
    }
  };

  let checks: HealthChecks | undefined;
  const startChecks = () => {
    checks?.stop();
    checks = options.checks && new HealthChecks(vm.services ?? [], options.checks, () => agent.heartbeatNow());
  };
  const sessionOptions = (): RegistrySessionOptions => ({
    client,
    vm,
    addedMetadata: vm.id === options.id ? options.addedMetadata : undefined,
    identity,
    onExit,
    health: options.checks && (() => checks?.report()),
    onToken: (token) => writeTokenFile(stateDir, token, log),
    onAlternation: updateProcessInfo,
    registerIfMissing: true,
    log,
  });
  const onRebirth = (renamed: Identity) => {
    removeProcessInfo(stateDir, 'agent', vm.id);
    identity = renamed;
    vm = registrationOf(options, identity);
    describeProcess();
  };
  const reportedFaults = new Set<string>();
  const agent: Agent = new Agent({
    ...sessionOptions(),
    interval: options.interval,
    announce: true,
    ...(options.onClone === 'replace' ? { checkToken: () => assertMayReplace(client, identity) } : {}),
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
    onOutage: (reason) => {
      outage = reason;
      updateProcessInfo();
      options.onOutage?.(reason);
    },
    onContact: () => updateAddressFiles(options.addressFiles, client, reportedFaults, log),
    ...(options.onHeartbeat ? { onHeartbeat: options.onHeartbeat } : {}),
  });
  options.onRunning((settings) => {
    for (const secret of settings.secrets) logMask.add(secret);
    vm = registrationOf(settings, identity);
    ({ client, exitClient, onExit } = settings);
    startChecks();
    agent.reload({ ...sessionOptions(), interval: settings.interval });
  });
  const stopWatching = watchTimeJumps((ms) => {
    log.info({ ms }, 'time jumped (VM suspended, process stopped, or clock set): sending a heartbeat now');
    agent.heartbeatNow();
  });
  startChecks();
  try {
    await agent.run(signal);
    if (!agent.isContested) {
      const session = { ...sessionOptions(), client: exitClient, onExit: await effectiveOnExit(onExit) };
      await new RegistrySession(session).deregister();
    }
    exitClient.close();
  } finally {
    stopWatching();
    client.close();
    checks?.stop();
    removeProcessInfo(stateDir, 'agent', vm.id);
  }
}

/** @returns the registration under the VM's current id; for a clone, the parent is the VM from which it was copied */
function registrationOf({ vmOf }: Pick<AgentSettings, 'vmOf'>, { id, parent }: Identity): Registration {
  return { ...vmOf(id), ...(parent === undefined ? {} : { parentId: parent }) };
}

/**
 * Rejects a second agent for the same VM, because the agents would contradict each other when one of them stops.
 * @throws VregError ALREADY_RUNNING
 */
function assertSingleAgent(stateDir: string, id: string): void {
  const other = readProcesses(stateDir, 'agent').find((info) => info.vm === id);
  if (!other) return;
  throw new VregError('ALREADY_RUNNING', `an agent for VM "${id}" is already running (pid ${other.pid})`, {
    hint: `stop it: kill ${other.pid}; or start this one with another --id`,
  });
}

/**
 * Logs failures instead of throwing: the files then remain unchanged, and `at` shows how old they are. Omits VMs with invalid
 * addresses, because the registry may be one that enforces no rules for addresses.
 * @param reported warnings that were logged before; updated
 */
async function updateAddressFiles(
  files: AgentProcessOptions['addressFiles'],
  client: RegistryClient,
  reported: Set<string>,
  log: AgentLog,
): Promise<void> {
  if (!files) return;
  try {
    const vms = await client.list({ status: 'running' });
    const checked = vms.filter(({ stale }) => !stale).map(forScripts);
    const omitted = writeAddressFiles(
      { ...files, now: Date.now },
      checked.filter(({ fault }) => !fault).map(({ row }) => row),
    );
    const faults = checked.flatMap(({ fault }) => (fault ? `${fault.message}; it is omitted from ${files.dir}` : []));
    const warnings = [...faults, ...omitted];
    for (const warning of warnings.filter((message) => !reported.has(message))) log.warn({ dir: files.dir }, warning);
    reported.clear();
    for (const warning of warnings) reported.add(warning);
  } catch (error) {
    log.warn({ dir: files.dir }, `cannot update the addresses in ${files.dir}: ${(error as Error).message}`);
  }
}

/** When the machine is shutting down, it will come back, so the status of its VM is set to stopped instead of removing it. */
async function effectiveOnExit(onExit: OnExit): Promise<OnExit> {
  if (onExit !== 'deregister') return onExit;
  const state = await new Promise<string>((resolve) => {
    // During a shutdown the command prints `stopping` and exits with 1 (systemctl(1)), so the error is ignored.
    execFile('systemctl', ['is-system-running'], { timeout: SYSTEMCTL_TIMEOUT }, (_error, stdout) =>
      resolve(stdout.trim()),
    );
  });
  return state === 'stopping' ? 'stopped' : onExit;
}
