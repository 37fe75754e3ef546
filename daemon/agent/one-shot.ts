/** `vreg heartbeat --state-dir`: sends one heartbeat with a proof of identity, for a timer on a VM without a resident agent. */
import type { Registration } from '../../src/protocol/vm.ts';
import { makeStateDir } from '../process/state-dir.ts';
import { Identity } from './identity.ts';
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
export async function heartbeatOnce({
  id,
  vmOf,
  stateDir,
  addedMetadata,
  ...options
}: OneShotOptions): Promise<HeartbeatResult> {
  makeStateDir(stateDir);
  const identity = Identity.open(stateDir, id, {
    resume: true,
    onWarning: (message) => options.log.warn({ id }, message),
  });
  const vm = { ...vmOf(identity.id), ...(identity.parent === undefined ? {} : { parentId: identity.parent }) };
  // They are the metadata of the configured id, not of the id that a clone received.
  const added = identity.id === id ? addedMetadata : undefined;
  const session = new RegistrySession({ ...options, vm, addedMetadata: added, identity, onExit: 'keep' });
  // If there is no result, the VM was registered first, which includes a heartbeat.
  const result = (await session.heartbeat()) ?? (await options.client.get(vm.id));
  await session.report();
  return result;
}
