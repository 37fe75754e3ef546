/**
 * The entry of the VM on which pi runs. Each heartbeat proves the identity of the VM, so the extension finds out that the VM is a clone
 * before it changes an entry.
 */
import type { RegistryClient } from '../../client.ts';
import type { Context } from '../../command.ts';
import { findMetadata, thisVm } from '../../fleet/local-vm.ts';
import { insteadOf } from '../../fleet/own-status.ts';
import {
  cloneVerdict,
  currentConflicts,
  findAgent,
  otherRegistryOf,
  ownStateFolder,
  readSelf,
  type Self,
  whyNoVm,
  withOwnToken,
} from '../../fleet/self.ts';
import { VregError } from '../../protocol/errors.ts';
import type { VmUpdate } from '../../protocol/vm.ts';
import type { PiSession } from './pi-session.ts';

/** The text for the footer of pi; undefined on a machine that is no VM of a fleet. */
type Line = string | undefined;

/** Metadata that the extension adds to a new entry, as that of the original registry does. */
const PROCESS = { pid: process.pid, startedAt: new Date(performance.timeOrigin).toISOString() };

/**
 * Registers this VM. If it is registered already, sends a heartbeat, corrects its name, and sets its status to `running` if it is
 * `stopped`; a paused VM stays paused. An agent of this VM that runs elsewhere registers it and sends its heartbeats.
 * @throws the client's errors, and VregError USAGE or INVALID for invalid settings
 */
export async function announce(session: PiSession, client: RegistryClient): Promise<Line> {
  return report(session, client, async (self) => {
    // The agent of this VM may not have registered it yet.
    const entry = await client.get(self.id).catch(insteadOf({ NOT_FOUND: undefined }));
    if (!entry) return;
    const name = session.context.config.get('name');
    const changes: VmUpdate = {
      ...(name === undefined || name === entry.name ? {} : { name }),
      ...(entry.status === 'stopped' ? { status: 'running' } : {}),
    };
    if (Object.keys(changes).length > 0) await client.update(self.id, changes);
  });
}

/** Sends a heartbeat, and registers this VM if its entry was removed. @throws as {@link announce} */
export async function sendHeartbeat(session: PiSession, client: RegistryClient): Promise<Line> {
  return report(session, client, async () => {});
}

/** @param afterwards changes the entry; it is called only if this VM holds its id */
async function report(
  session: PiSession,
  client: RegistryClient,
  afterwards: (self: Self) => Promise<void>,
): Promise<Line> {
  const { context, standing } = session;
  const self = await readSelf(context.config);
  if (whyNoVm(context.config, self) !== undefined) return undefined;
  const { id } = self;
  const adopted = standing.adoptedBy(self);
  if (adopted !== undefined) {
    // Its folder does not accept the state, which would contain the id and the token.
    await withOwnToken(
      context.config,
      client,
      () => client.heartbeat(adopted),
      (each) => standing.tokenOf(each),
    );
    return adopted;
  }
  const { verdict, warning } = self.state?.content.isRefused ? CLONE : await prove(context, client, self);
  switch (verdict) {
    case 'own':
      await afterwards(self);
      return warning === undefined ? id : `${id}; ${warning}`;
    case 'contested':
      return `two VMs claim the id ${id}`;
    case 'clone':
      return `this VM is a clone of ${id}, and sends no heartbeats; what to do: vreg whoami`;
  }
}

interface Proof {
  verdict: 'own' | 'clone' | 'contested';
  /** Why this VM has no proof, and the consequence; or to which other registry its agent sends heartbeats. */
  warning?: string;
}

const CLONE: Proof = { verdict: 'clone' };

/** Sends a heartbeat with a proof of identity, unless an agent of this VM does so. */
async function prove(context: Context, client: RegistryClient, self: Self): Promise<Proof> {
  const { config } = context;
  const { id, configuredId, parentId, state } = self;
  const agent = await findAgent(config, self);
  if (agent) {
    client.useToken(state?.content.bearer);
    const other = otherRegistryOf(agent, client);
    const warning = other === undefined ? undefined : `its agent sends heartbeats to ${other}`;
    return { ...(await claimOf(client, self)), ...(warning === undefined ? {} : { warning }) };
  }
  const { heartbeatOnce, heartbeatWithoutProof, isStateUnusable } = await import('../../../daemon/agent/one-shot.ts');
  const note = (_fields: object, message: string) => context.verbose(message);
  const options = {
    client,
    id: configuredId,
    vmOf: (vm: string) => thisVm(config, { parent: parentId }, vm),
    addedMetadata: { ...findMetadata(config, configuredId), ...PROCESS },
    registerIfMissing: true,
    log: { info: note, warn: note },
  };
  const stateDir = state?.dir ?? ownStateFolder(config);
  try {
    await heartbeatOnce({ ...options, stateDir });
    return { verdict: 'own' };
  } catch (error) {
    if (isStateUnusable(error)) {
      const claim = await claimOf(client, self);
      if (claim.verdict !== 'own') return claim;
      // A clone continues under the id in its state.
      const addedMetadata = id === configuredId ? options.addedMetadata : undefined;
      await heartbeatWithoutProof({ ...options, id, addedMetadata });
      return { verdict: 'own', warning: `clones of this VM are not detected: ${error.message}` };
    }
    if (!(error instanceof VregError) || error.code !== 'IDENTITY_CONFLICT') throw error;
    // With a time to wait, the registry has not decided yet.
    return error.retryAfter === undefined ? CLONE : { verdict: 'contested' };
  }
}

/** Whether this VM may act under its id, according to its state and the conflicts on record. @throws the client's errors */
async function claimOf(client: RegistryClient, self: Self): Promise<Proof> {
  const verdict = cloneVerdict(self, await currentConflicts(client));
  return { verdict: verdict === 'clone' || verdict === 'contested' ? verdict : 'own' };
}
