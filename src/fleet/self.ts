/**
 * This VM's own identity: what its agent has stored on its disk, and whether this VM is a clone, for `vreg whoami`, `vreg hook` and `vreg mcp`.
 */
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { IdentityState } from '../../daemon/agent/identity.ts';
import type { ProcessInfo } from '../../daemon/process/pid-file.ts';
import type { RegistryClient } from '../client.ts';
import type { SettingKey } from '../config/settings.ts';
import type { Config } from '../config.ts';
import { VregError } from '../protocol/errors.ts';
import type { Conflict } from '../protocol/heartbeat.ts';
import { findParent, findVmId } from './local-vm.ts';

/** Names of the state folders of the units that `vreg daemon install` writes. */
const UNIT_FOLDERS = ['vreg-agent', 'vreg-heartbeat'];
/** The folder in which systemd makes the state folders of system units (systemd.exec(5), StateDirectory=). */
const SYSTEM_STATE = '/var/lib';

export interface Self {
  /** The id in the settings of this VM. */
  configuredId: string;
  /** The flag, variable or file that the id comes from. */
  idOrigin: string;
  /** The id under which this VM continues: another one if its agent has found that it is a clone. */
  id: string;
  /** The ids that this VM had before, oldest first. They belong to the VMs from which it was copied. */
  formerIds: readonly string[];
  /** The VM from which this one was cloned or created. */
  parentId: string | undefined;
  /** Undefined if no agent has stored a state that this user can read. */
  state: { dir: string; content: IdentityState } | undefined;
  /** Why a state could not be read. */
  fault: string | undefined;
}

/**
 * - `proven`: a registry has accepted the proof in the state of this VM. A copy of the state has the same proof, so this says nothing
 *   about the time since then
 * - `clone`: another incarnation holds the id, and the registry rejects the heartbeats of this one
 * - `reborn`: this VM is a clone and continues under an id of its own
 * - `contested`: two incarnations claim the id, and it is not known which one this VM is
 * - `unproven`: no agent has proved the identity of this VM, so a clone would not be detected
 */
export type CloneVerdict = 'proven' | 'clone' | 'reborn' | 'contested' | 'unproven';

const VERDICT_TEXTS: Readonly<Record<CloneVerdict, string>> = {
  proven: 'not known to be one: a registry has accepted the last proof of this VM',
  clone: 'yes: another VM holds the id, and the registry rejects the heartbeats of this one',
  reborn: 'yes, and it continues under an id of its own',
  contested: 'unknown: two VMs claim the id, and nothing shows that this one holds it',
  unproven: 'not checked: no agent has proved the identity of this VM',
};

/**
 * The answer to "is this VM a clone?"
 * @param unknown why the conflicts of this VM are unknown, if the registry was asked and they are
 * @param lacksAgent see {@link lacksAgent}
 */
export function verdictText(verdict: CloneVerdict, unknown: string | undefined, lacksAgent: boolean): string {
  const hint = verdict === 'unproven' && lacksAgent ? ' (start one: vreg daemon agent --detach)' : '';
  const text = VERDICT_TEXTS[verdict] + hint;
  // The state of the agent alone shows that this VM is a clone.
  return unknown === undefined || verdict === 'clone' ? text : `${text}; conflicts unknown: ${unknown}`;
}

/** The settings that {@link readSelf} reads. */
export const SELF_SETTINGS = ['id', 'id-file', 'data-dir'] as const satisfies readonly SettingKey[];

/** Reads the state of the agent in `--data-dir` or, without that flag, in the folders of the agent and of its units. */
export async function readSelf(config: Config): Promise<Self> {
  const { readIdentityStates } = await import('../../daemon/agent/identity.ts');
  const { value: configuredId, origin: idOrigin } = findVmId(config);
  let found: { dir: string; content: IdentityState; formerIds: readonly string[] } | undefined;
  let fault: string | undefined;
  for (const dir of stateFolders(config)) {
    try {
      const states = readIdentityStates(dir, configuredId);
      const content = states.at(-1)!;
      if (content.vm === configuredId && content.incarnation === undefined && content.token === undefined) continue;
      if (found && !outranks(content, found.content, configuredId)) continue;
      found = { dir, content, formerIds: states.slice(0, -1).map(({ vm }) => vm) };
    } catch (error) {
      if (!(error instanceof VregError)) throw error;
      fault ??= error.message;
    }
  }
  const { formerIds = [], ...state } = found ?? {};
  const id = found?.content.vm ?? configuredId;
  const parentId = found?.content.parent ?? findParent(config, configuredId);
  return {
    configuredId,
    idOrigin,
    id,
    formerIds,
    parentId,
    state: found && (state as Self['state']),
    fault: found ? undefined : fault,
  };
}

/** Why this machine is no VM of a fleet, so that programs do not register it unasked; undefined if it is one. */
export function whyNoVm(config: Config, { idOrigin }: Self): string | undefined {
  if (config.find('url')!.origin === 'default') return 'no registry is configured (VERS_INFRA_URL)';
  return idOrigin === 'the host name' ? 'no id is configured (VERS_VM_ID)' : undefined;
}

/**
 * Whether a state applies instead of that in another folder, for example of an agent that ran as another unit before: that of a
 * clone first, then the one with the newest proof.
 */
function outranks(one: IdentityState, other: IdentityState, configuredId: string): boolean {
  const rank = ({ isRefused, vm }: IdentityState) => (isRefused ? 2 : vm === configuredId ? 0 : 1);
  const lead = rank(one) - rank(other);
  return lead === 0 ? (one.provenAt ?? 0) > (other.provenAt ?? 0) : lead > 0;
}

function stateFolders(config: Config): string[] {
  const given = config.get('data-dir');
  if (given !== undefined) return [resolve(given)];
  const { stateDir } = config;
  const bases = [dirname(stateDir), SYSTEM_STATE];
  return [...new Set([stateDir, ...bases.flatMap((base) => UNIT_FOLDERS.map((name) => join(base, name)))])];
}

/** The agent of this VM that runs now, according to the pid files in the folders of {@link readSelf}; 'unit' if systemd runs it. */
export async function findAgent(config: Config, { id, configuredId }: Self): Promise<ProcessInfo | 'unit' | undefined> {
  const { readProcesses } = await import('../../daemon/process/pid-file.ts');
  const agents = stateFolders(config).flatMap((dir) => readProcesses(dir, 'agent'));
  const own = agents.find(({ vm }) => vm === id || vm === configuredId);
  if (own) return own;
  // Other users cannot read the folder of a unit. A second agent beside it would look like a clone.
  const areActive = await Promise.all([isUnitActive(), isUnitActive('--user')]);
  return areActive.includes(true) ? 'unit' : undefined;
}

/**
 * The VMs for which agents run on this machine although no id is configured. A login shell may lack the variables of the agent.
 * @returns none if an id is configured
 */
export async function unconfiguredIds(config: Config, { id, idOrigin }: Self): Promise<string[]> {
  if (idOrigin !== 'the host name') return [];
  const { readProcesses } = await import('../../daemon/process/pid-file.ts');
  const ids = stateFolders(config).flatMap((dir) => readProcesses(dir, 'agent').flatMap(({ vm }) => vm ?? []));
  return ids.filter((each) => each !== id).sort();
}

/** True if an agent of this VM could be started. @param isVreg false for the original registry, to which agents prove nothing */
export async function lacksAgent(config: Config, self: Self, isVreg: boolean): Promise<boolean> {
  if (!isVreg || (await unconfiguredIds(config, self)).length > 0) return false;
  return (await findAgent(config, self)) === undefined;
}

/**
 * The registry to which the agent of this VM sends its heartbeats, if that is at none of the URLs of this client. After a change of
 * the settings, a running agent still uses its own.
 */
export function otherRegistryOf(agent: ProcessInfo | 'unit', { urls }: RegistryClient): string | undefined {
  if (agent === 'unit' || agent.urls.some((url) => urls.includes(url))) return undefined;
  return agent.urls.join(' and ');
}

/** Milliseconds to wait for systemd, which answers within a few. */
const SYSTEMCTL_TIMEOUT = 500;

async function isUnitActive(...args: string[]): Promise<boolean> {
  const { execFile } = await import('node:child_process');
  return new Promise((resolve) => {
    const query = [...args, 'is-active', '--quiet', 'vreg-agent.service', 'vreg-heartbeat.timer'];
    execFile('systemctl', query, { timeout: SYSTEMCTL_TIMEOUT }, (error) => resolve(error === null));
  });
}

/**
 * Proves the identity of this VM with the state on its disk, as `vreg heartbeat --state-dir` does: the registry rejects a copy of the
 * state once another VM has continued with it. Does nothing without a proof, or while an agent runs, which proves it regularly.
 * @returns `refused` if this VM is a clone, `undecided` if the registry does not know yet, undefined if nothing was proved
 * @throws VregError STORE_UNUSABLE, and the client's errors except NOT_FOUND
 */
export async function proveSelf(
  client: RegistryClient,
  { id, configuredId, state }: Self,
): Promise<'accepted' | 'refused' | 'undecided' | undefined> {
  const { token, next, registry, bearer, parent } = state?.content ?? {};
  // A clone with an id of its own has not sent its first proof yet.
  if (!state || (token === undefined && next === undefined && parent === undefined)) return undefined;
  if (await hasAgent(state.dir, [id, configuredId])) return undefined;
  // A proxy may have removed the header by which a vreg registry is known.
  if (!(await client.isVreg()) && registry === undefined) return undefined;
  const { proveOnce } = await import('../../daemon/agent/one-shot.ts');
  const before = client.otherToken;
  const prove = async () => {
    // A proof with another address than that of the agent would look like another place.
    const { address } = await client.get(id);
    await proveOnce({ client, id: configuredId, address, stateDir: state.dir });
  };
  try {
    client.useToken(bearer);
    await prove().catch((error: unknown) => {
      if (bearer === undefined || !hasCode(error, 'UNAUTHORIZED', 'FORBIDDEN')) throw error;
      client.useToken(undefined);
      return prove();
    });
    return 'accepted';
  } catch (error) {
    if (hasCode(error, 'IDENTITY_CONFLICT')) return error.retryAfter === undefined ? 'refused' : 'undecided';
    // There is no VM that this one could be a copy of.
    if (hasCode(error, 'NOT_FOUND')) return undefined;
    throw error;
  } finally {
    client.useToken(before);
  }
}

/**
 * Runs `work`. If the settings contain no token, one that the registry refuses, or one that may only enrol, runs it again with the
 * token that this VM has received. The enrol token of an image may have expired.
 * @param tokenOf finds that token @throws the errors of `work`
 */
export async function withOwnToken<T>(
  config: Config,
  client: RegistryClient,
  work: () => Promise<T>,
  tokenOf: (self: Self) => string | undefined,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!hasCode(error, 'UNAUTHORIZED', 'FORBIDDEN') || client.otherToken !== undefined) throw error;
    const bearer = tokenOf(await readSelf(config));
    if (bearer === undefined || (error.code === 'FORBIDDEN' && !(await mayOnlyEnrol(client)))) throw error;
    client.useToken(bearer);
    return work();
  }
}

async function mayOnlyEnrol(client: RegistryClient): Promise<boolean> {
  const token = await client.whoami().catch((error: unknown) => {
    if (error instanceof VregError) return undefined;
    throw error;
  });
  return token?.scope === 'enrol';
}

/**
 * Stores that this VM, which is a clone, continues under another id, so that later programs and its agent do so.
 * @param bearer the token that the registry has issued for that id
 * @throws VregError STORE_UNUSABLE or USAGE if no folder accepts the state; BUSY if an agent runs, which would overwrite it
 */
export async function storeRebirth(
  config: Config,
  { id: was, configuredId, state }: Self,
  id: string,
  bearer: string | undefined,
): Promise<void> {
  const { Identity, withIdentityLock } = await import('../../daemon/agent/identity.ts');
  const { makeStateDir } = await import('../../daemon/process/state-dir.ts');
  const dir = state?.dir ?? ownStateFolder(config);
  makeStateDir(dir);
  await withIdentityLock(dir, configuredId, async () => {
    if (await hasAgent(dir, [was, configuredId]))
      throw new VregError('BUSY', `the agent of this VM has not ended yet, and uses the state in ${dir}`);
    const reborn = Identity.open(dir, configuredId, { resume: true }).rebirth(id);
    if (bearer !== undefined) reborn.storeBearer(bearer);
  });
}

/** The file in which an agent has stored the token that this VM has received; undefined if there is none, or this user cannot see it. */
export function ownTokenFile(config: Config): string | undefined {
  return stateFolders(config)
    .map((dir) => join(dir, 'token'))
    .find((path) => existsSync(path));
}

/** The folder in which the programs of this VM store its state, if it has none yet. */
export function ownStateFolder(config: Config): string {
  return resolve(config.get('data-dir') ?? config.stateDir);
}

async function hasAgent(dir: string, ids: readonly string[]): Promise<boolean> {
  const { readProcesses } = await import('../../daemon/process/pid-file.ts');
  return readProcesses(dir, 'agent').some(({ vm }) => ids.some((id) => id === vm));
}

function hasCode(error: unknown, ...codes: VregError['code'][]): error is VregError {
  return error instanceof VregError && codes.includes(error.code);
}

/** @param conflicts those of {@link currentConflicts}; empty if they cannot be read */
export function cloneVerdict({ configuredId, id, state }: Self, conflicts: readonly Conflict[]): CloneVerdict {
  const open = conflicts.filter((conflict) => conflict.id === id && conflict.state === 'open');
  if (!state) return open.length > 0 ? 'contested' : 'unproven';
  const { isRefused, incarnation, token, parent } = state.content;
  // Copies of a running agent have the same incarnation, so the registry tells only different ones apart.
  const isOther = ({ holder, other }: Conflict) =>
    incarnation !== undefined && other.incarnation === incarnation && holder.incarnation !== incarnation;
  if (isRefused || open.some(isOther)) return 'clone';
  if (id !== configuredId || parent !== undefined) return 'reborn';
  return token === undefined ? 'unproven' : 'proven';
}

/**
 * The conflicts on record, without open ones whose refused incarnation is gone; none with the original registry.
 * @throws the client's errors
 */
export async function currentConflicts(client: RegistryClient): Promise<readonly Conflict[]> {
  try {
    const { conflicts } = await client.conflicts();
    return conflicts.filter((conflict) => conflict.state !== 'open' || isClaimHeard(conflict, client.server));
  } catch (error) {
    if (hasCode(error, 'UNSUPPORTED')) return [];
    throw error;
  }
}

/** True if the refused incarnation of a conflict has sent a heartbeat within the last lease period. */
export function isClaimHeard({ lastAt }: Conflict, { now, lease }: RegistryClient['server']): boolean {
  return now - Date.parse(lastAt) <= lease;
}
