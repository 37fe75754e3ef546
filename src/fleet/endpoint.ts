/** From live VMs to the one address or URL that a script asked for. */
import type { Flag } from '../command.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES, type Vm } from '../protocol/vm.ts';

export const PICKS = ['first', 'newest', 'random'] as const;
export type Pick = (typeof PICKS)[number];

export const ROLE_ARGUMENT = { name: 'role', about: 'role of the VM', values: ROLES } as const;
export const HAS_SERVICE_FLAG: Flag = { flags: '--service <name>', about: 'only VMs with this service' };
export const TRUST_FLAGS: readonly Flag[] = [
  { flags: '--passing', about: 'only VMs whose service passes its health checks (requires --service)' },
  { flags: '--strict', about: 'fail (exit 10) if the answer may be outdated' },
];
export const PICK_FLAG: Flag = {
  flags: '--pick <which>',
  about: 'which live VM to pick (default: first, the oldest)',
  values: PICKS,
};
export const MAX_STALE_FLAG: Flag = {
  flags: '--max-stale <duration>',
  about: "if the registry is unreachable, use the agent's cached answer up to this age",
};
export const WAIT_FLAG: Flag = { flags: '--wait <duration>', about: 'wait up to this long for a live VM, e.g. 30s' };

export interface PickFlags {
  pick?: Pick;
  service?: string;
}

/** @param vms oldest registration first, or those first where the service passes its checks; not empty */
export function pickOne(
  vms: readonly VmWithLiveness[],
  { pick = 'first', service }: PickFlags,
  random: () => number = Math.random,
): Vm {
  if (service !== undefined) {
    // Only among those that are as well as the first.
    const best = vms[0]!.health?.[service];
    return pickOne(
      vms.filter(({ health }) => health?.[service] === best),
      { pick },
      random,
    );
  }
  if (pick === 'newest') return vms.at(-1)!;
  return vms[pick === 'random' ? Math.floor(random() * vms.length) : 0]!;
}

export interface UrlParts {
  /** Name of one of the VM's services, for its port. */
  service?: string | undefined;
  scheme?: string | undefined;
  path?: string | undefined;
}

/**
 * The URL of a VM: its address, the port of the named service, else the port that the registry itself has.
 * An address that brings a port of its own keeps it unless a service was named.
 */
export function urlOf(vm: Vm, registryUrl: string, { service, scheme = 'http', path = '' }: UrlParts): string {
  const { host, port: own } = splitAddress(vm.address);
  const port =
    service === undefined ? (own ?? portOf(registryUrl)) : vm.services?.find(({ name }) => name === service)?.port;
  const slash = path === '' || path.startsWith('/') ? '' : '/';
  return `${scheme}://${host}${port ? `:${port}` : ''}${slash}${path}`;
}

export function noLiveVm(role: string, service?: string): VregError {
  return new VregError(
    'NO_LIVE',
    `no live ${role} VM${service === undefined ? '' : ` with the service "${service}"`}`,
    {
      hint: `list registered VMs: vreg ls --role ${role}`,
    },
  );
}

function splitAddress(address: string): { host: string; port?: string } {
  // A bare IPv6 address has colons and needs brackets in a URL.
  if (/^[^[\]]*:[^[\]]*:/.test(address)) return { host: `[${address}]` };
  const [, host, port] = /^(.*?)(?::(\d+))?$/s.exec(address)!;
  return { host: host!, ...(port === undefined ? {} : { port }) };
}

function portOf(url: string): string {
  return url.startsWith('unix:') ? '' : new URL(url).port;
}
