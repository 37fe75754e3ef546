/**
 * Builds the registration of the VM on which this program runs, from the settings and the host, for `vreg register` and the
 * agent.
 */
import { hostname, userInfo } from 'node:os';
import type { Config } from '../config.ts';
import { VregError } from '../protocol/errors.ts';
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
 * @param id id of the VM; pass it to register another VM than this one
 * @throws VregError USAGE or INVALID naming the field
 */
export function thisVm(
  config: Config,
  { status, service, meta, parent }: ThisVmFlags,
  id = thisVmId(config),
): Registration {
  return parseOwnRegistration({
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

/** Parses the registration of this VM. The address is the only field whose default may be invalid. @throws VregError INVALID */
export function parseOwnRegistration(fields: Record<string, unknown>): Registration {
  try {
    return parseRegistration(fields);
  } catch (error) {
    if (!(error instanceof VregError) || error.field !== 'address') throw error;
    const hint = 'pass --address ADDRESS; the default, ID.vm.vers.sh, requires an id that can be part of a host name';
    throw new VregError(error.code, error.message, { field: error.field, hint });
  }
}

/** Name of the coding agent that runs this program. A name given as a flag is the name of the VM instead. */
function agentName(config: Config): string | undefined {
  const name = config.find('name');
  return name?.origin.startsWith('flag') ? undefined : name?.value;
}

/** The host name under which the Vers platform makes a VM reachable. */
export function defaultAddress(id: string): string {
  return `${id}.vm.vers.sh`;
}

export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // Many containers run with a uid that has no entry in passwd.
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
}
