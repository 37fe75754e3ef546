/** One beat with an identity: what a timer runs, where no agent stays in memory. */
import type { Registration } from '../../src/protocol/vm.ts';
import { makeStateDir } from '../process/state-dir.ts';
import { Identity } from './identity.ts';
import { type HeartbeatResult, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';

export interface OneShotOptions extends Pick<RegistrySessionOptions, 'client' | 'registerIfMissing' | 'log'> {
  id: string;
  vmOf(id: string): Registration;
  stateDir: string;
}

/** @throws VregError IDENTITY_CONFLICT when another incarnation of the VM lives, and as {@link RegistrySession.heartbeat} */
export async function heartbeatOnce({ id, vmOf, stateDir, ...options }: OneShotOptions): Promise<HeartbeatResult> {
  makeStateDir(stateDir);
  const identity = Identity.open(stateDir, id, {
    resume: true,
    onWarning: (message) => options.log.warn({ id }, message),
  });
  const vm = { ...vmOf(identity.id), ...(identity.parent === undefined ? {} : { parentId: identity.parent }) };
  const contact = new RegistrySession({ ...options, vm, identity, onExit: 'keep' });
  // Whoever had to be registered first has beaten with it.
  return (await contact.heartbeat()) ?? (await options.client.get(vm.id));
}
