/** The VM that the program runs on, as the settings and the machine know it: what `register` and the agent say of it. */
import { hostname, userInfo } from 'node:os';
import type { Config } from '../config.ts';
import { parseRegistration, type Registration, type Role } from '../protocol/vm.ts';
import { parseMetaFlags, parseServiceFlag } from './flags.ts';

/** The id from `VERS_VM_ID`, else the host name. */
export function thisVmId(config: Config): string {
  return config.get('id') ?? hostname();
}

export interface ThisVmFlags {
  status?: string;
  service?: string[];
  meta?: string[];
  parent?: string;
}

/**
 * This VM's registration from flags, variables, config file and defaults.
 * @param id another VM's, where somebody registers in its place
 * @throws VregError USAGE or INVALID naming the field
 */
export function thisVm(
  config: Config,
  { status, service, meta, parent }: ThisVmFlags,
  id = thisVmId(config),
): Registration {
  return parseRegistration({
    id,
    name: config.get('name') ?? hostname(),
    role: config.get('role') as Role,
    status,
    address: config.get('address') ?? defaultAddress(id),
    services: service?.map(parseServiceFlag),
    metadata: meta ? parseMetaFlags(meta) : undefined,
    parentId: parent,
    registeredBy: config.get('registered-by') ?? agentName(config) ?? userName(),
  });
}

/** The name of the agent that this program is run by; a name on the command line is that of the VM. */
function agentName(config: Config): string | undefined {
  const name = config.find('name');
  return name?.origin.startsWith('flag') ? undefined : name?.value;
}

/** Where the Vers platform makes a VM reachable. */
export function defaultAddress(id: string): string {
  return `${id}.vm.vers.sh`;
}

export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A uid without an entry in passwd, as in many containers.
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
}
