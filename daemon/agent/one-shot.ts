/**
 * One heartbeat with a proof of identity, on a VM without a resident agent: `vreg heartbeat --state-dir` for a timer, and the proof
 * before `vreg mcp` changes the registry.
 */
import type { RegistryClient } from '../../src/client.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { readProcesses } from '../process/pid-file.ts';
import { makeStateDir } from '../process/state-dir.ts';
import { Identity, withIdentityLock } from './identity.ts';
import { type HeartbeatResult, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';

export interface OneShotOptions
  extends Pick<RegistrySessionOptions, 'client' | 'registerIfMissing' | 'log' | 'addedMetadata'> {
  id: string;
  /** @returns the registration of this VM under the given id */
  vmOf(id: string): Registration;
  stateDir: string;
}

/**
 * Sends one heartbeat and resolves with its result.
 * @throws VregError IDENTITY_CONFLICT if another incarnation of the VM is alive, and as {@link
 *   RegistrySession.heartbeat}
 */
export async function heartbeatOnce(options: OneShotOptions): Promise<HeartbeatResult> {
  makeStateDir(options.stateDir);
  return withIdentityLock(options.stateDir, options.id, () => sendHeartbeat(options));
}

async function sendHeartbeat({
  id,
  vmOf,
  stateDir,
  addedMetadata,
  ...options
}: OneShotOptions): Promise<HeartbeatResult> {
  const identity = Identity.open(stateDir, id, {
    resume: true,
    onWarning: (message) => options.log.warn({ id }, message),
  });
  // An agent has started since the last heartbeat. It keeps the state in memory, so another process must not spend its token.
  if (isAgentRunning(stateDir, identity.id)) {
    options.client.useToken(identity.bearer);
    return options.client.heartbeat(identity.id);
  }
  const vm = { ...vmOf(identity.id), ...(identity.parent === undefined ? {} : { parentId: identity.parent }) };
  // They are the metadata of the configured id, not of the id that a clone received.
  const added = identity.id === id ? addedMetadata : undefined;
  return sendAs({ ...options, vm, addedMetadata: added, identity });
}

/**
 * As {@link heartbeatOnce}, for a VM whose state folder cannot be used. Without a proof, the registry cannot detect clones of the VM,
 * and a token that it issues is lost.
 * @throws the client's errors
 */
export async function heartbeatWithoutProof({ id, vmOf, ...options }: Omit<OneShotOptions, 'stateDir'>): Promise<void> {
  await sendAs({ ...options, vm: vmOf(id) });
}

/** Whether this is an error of {@link heartbeatOnce} about the state folder, so that {@link heartbeatWithoutProof} may succeed. */
export function isStateUnusable(error: unknown): error is VregError {
  if (!(error instanceof VregError)) return false;
  return error.code === 'STORE_UNUSABLE' || (error.code === 'USAGE' && error.field === 'data-dir');
}

async function sendAs(options: Omit<RegistrySessionOptions, 'onExit'>): Promise<HeartbeatResult> {
  const session = new RegistrySession({ ...options, onExit: 'keep' });
  // If there is no result, the VM was registered first, which includes a heartbeat.
  const result = (await session.heartbeat()) ?? (await options.client.get(options.vm.id));
  await session.report();
  return result;
}

export interface ProofOptions {
  client: Pick<RegistryClient, 'heartbeat'>;
  /** The configured id; the proof is for the id under which the VM continues. */
  id: string;
  address: string;
  stateDir: string;
}

/**
 * Sends only the proof. Unlike {@link heartbeatOnce}, never without one, and never changes the entry.
 * @throws VregError IDENTITY_CONFLICT, STORE_UNUSABLE, and the client's errors
 */
export async function proveOnce(options: ProofOptions): Promise<void> {
  return withIdentityLock(options.stateDir, options.id, () => sendProof(options));
}

async function sendProof({ client, id, address, stateDir }: ProofOptions): Promise<void> {
  const identity = Identity.open(stateDir, id, { resume: true });
  if (isAgentRunning(stateDir, identity.id)) return;
  // A proof that cannot be stored must not be sent: the next one would spend the same token, as that of a copy does.
  const proof = identity.nextProof();
  try {
    await client.heartbeat(identity.id, { ...proof, address });
  } catch (error) {
    if (error instanceof VregError && error.code === 'IDENTITY_CONFLICT' && error.retryAfter === undefined)
      ifStorable(() => identity.refuseProof());
    throw error;
  }
  ifStorable(() => identity.confirmProof());
}

/** Stores the answer to a proof, unless the disk accepts nothing: the next call repeats the proof, which the registry accepts. */
function ifStorable(store: () => void): void {
  try {
    store();
  } catch (error) {
    if (!isStateUnusable(error)) throw error;
  }
}

function isAgentRunning(stateDir: string, id: string): boolean {
  return readProcesses(stateDir, 'agent').some(({ vm }) => vm === id);
}
