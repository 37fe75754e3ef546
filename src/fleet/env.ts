/** Live VMs as environment variables: what `vreg env` prints, and what an agent keeps in its run dir. */

import type { Vm } from '../protocol/vm.ts';
import { urlOf } from './endpoint.ts';

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

/** A value for a POSIX shell. Nothing in it may end the quotes: it came from whoever registered. */
export function quotePosix(value: string): string {
  return /^[\w.:/@%+,-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
