/** Formats live VMs as environment variables, which `vreg env` prints and an agent writes to its run dir. */
import type { Vm } from '../protocol/vm.ts';
import { urlOf } from './lookup.ts';

/** @param vms the live VMs of the role, oldest registration first */
export function variablesOfRole(
  role: string,
  vms: readonly [Vm, ...Vm[]],
  registryUrl: string,
): Record<string, string> {
  const prefix = `VREG_${role.toUpperCase()}`;
  const [oldest] = vms;
  return {
    [`${prefix}_ID`]: oldest.id,
    [`${prefix}_ADDR`]: oldest.address,
    [`${prefix}_URL`]: urlOf(oldest, registryUrl, {}),
    [`${prefix}_ADDRS`]: vms.map(({ address }) => address).join(' '),
  };
}

/** Quotes a value for a POSIX shell. The value is untrusted input from a VM, so nothing in it may end the quotes. */
export function quotePosix(value: string): string {
  return /^[\w.:/@%+,-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
