/**
 * Selects the entries that scripts may use. A registry other than the current vreg daemon (vers-agent-services, an older vreg,
 * or a hostile server) may not validate entries, so the CLI checks ids, addresses and ports before it prints or writes them for
 * scripts.
 */
import type { Context } from '../command.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import type { VregError } from '../protocol/errors.ts';
import { forScripts } from '../protocol/vm.ts';

/** Separates the entries that scripts may use from the faults of the others. */
export function separate(vms: readonly VmWithLiveness[]): { usable: VmWithLiveness[]; faults: VregError[] } {
  const checked = vms.map(forScripts);
  return {
    usable: checked.filter(({ fault }) => !fault).map(({ row }) => row),
    faults: checked.flatMap(({ fault }) => fault ?? []),
  };
}

/** Same as {@link separate}, but reports the omitted entries. @param reported messages that are not repeated */
export function usableVms(
  context: Context,
  vms: readonly VmWithLiveness[],
  reported = new Set<string>(),
): VmWithLiveness[] {
  const { usable, faults } = separate(vms);
  noteFaults(
    context,
    faults.filter(({ message }) => !reported.has(message)),
  );
  for (const { message } of faults) reported.add(message);
  return usable;
}

export function noteFaults(context: Context, faults: readonly VregError[]): void {
  for (const { message } of faults) context.note(`${message}; it is omitted`);
}
