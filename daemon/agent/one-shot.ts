/** One beat with an identity: what a timer runs, where no agent stays in memory. */
import type { Registration } from '../../src/protocol/vm.ts';
import { makeStateDir } from '../process/state-dir.ts';
import { Identity } from './identity.ts';
import { type Beaten, Contact, type ContactOptions } from './registry-session.ts';

export interface OnceOptions extends Pick<ContactOptions, 'client' | 'registerIfMissing' | 'log'> {
  id: string;
  vmOf(id: string): Registration;
  stateDir: string;
}

/** @throws VregError IDENTITY_CONFLICT when another incarnation of the VM lives, and as {@link Contact.beat} */
export async function beatOnce({ id, vmOf, stateDir, ...options }: OnceOptions): Promise<Beaten> {
  makeStateDir(stateDir);
  const identity = Identity.open(stateDir, id, {
    goesOn: true,
    onTrouble: (message) => options.log.warn({ id }, message),
  });
  const vm = { ...vmOf(identity.id), ...(identity.parent === undefined ? {} : { parentId: identity.parent }) };
  const contact = new Contact({ ...options, vm, identity, onExit: 'keep' });
  // Whoever had to be registered first has beaten with it.
  return (await contact.beat()) ?? (await options.client.get(vm.id));
}
