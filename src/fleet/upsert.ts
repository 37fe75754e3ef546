/** Registers an entry whose id may already be registered, for `vreg register` and `vreg import`. */
import type { Context } from '../command.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import type { Registration } from '../protocol/vm.ts';

export const IF_EXISTS = ['fail', 'update', 'ignore'] as const;
export type IfExists = (typeof IF_EXISTS)[number];

/**
 * Registers the VM or updates its entry. Prints a note if the role stays different, because the original registry
 * (vers-agent-services) cannot change it.
 */
export async function registerOrUpdate(context: Context, registration: Registration): Promise<VmWithLiveness> {
  const vm = await context.client().registerOrUpdate(registration);
  if (vm.role !== registration.role)
    context.note(`${vm.id} keeps the role ${vm.role}: this registry cannot change roles`);
  return vm;
}
