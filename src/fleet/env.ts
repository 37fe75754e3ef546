/** Formats live VMs as environment variables, which `vreg env` prints and an agent writes to its run dir. */
import type { VregError } from '../protocol/errors.ts';
import type { Vm } from '../protocol/vm.ts';
import { type UrlParts, urlOrFault } from './vm-url.ts';

/**
 * @param vms the live VMs of the role, oldest registration first
 * @returns the variables; without the URL, and with the reason, if the services of the VM do not determine it
 */
export function variablesOfRole(
  role: string,
  vms: readonly [Vm, ...Vm[]],
  registryUrls: readonly string[],
  parts?: UrlParts,
): { variables: Record<string, string>; fault: VregError | undefined } {
  const prefix = `VREG_${role.toUpperCase()}`;
  const [oldest] = vms;
  const { url, fault } = urlOrFault(oldest, registryUrls, parts);
  return {
    variables: {
      [`${prefix}_ID`]: oldest.id,
      [`${prefix}_ADDR`]: oldest.address,
      ...(url === undefined ? {} : { [`${prefix}_URL`]: url }),
      [`${prefix}_ADDRS`]: vms.map(({ address }) => address).join(' '),
    },
    fault,
  };
}

/** Quotes a value for a POSIX shell. The value is untrusted input from a VM, so nothing in it may end the quotes. */
export function quotePosix(value: string): string {
  return /^[\w.:/@%+,-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
