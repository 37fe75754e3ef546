/**
 * Builds the registration of the VM on which this program runs, from the settings and the host, for `vreg register` and the
 * agent.
 */
import { hostname, userInfo } from 'node:os';
import { settingOf } from '../config/settings.ts';
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
 * @param id id of the VM, if it is not that of the settings
 * @throws VregError USAGE or INVALID naming the field
 */
export function thisVm(config: Config, flags: ThisVmFlags, id = thisVmId(config)): Registration {
  return parseOwnRegistration({
    ...fieldsOf(config, flags),
    id,
    name: config.get('name') ?? hostname(),
    role: config.get('role') as Role,
    address: config.get('address') ?? defaultAddress(id),
  });
}

/**
 * The registration of the VM with this id, which may be another VM than this one: variables and the config file describe this
 * VM, so another VM gets its name, role and address from flags or defaults. Its default name is its id.
 * @throws VregError USAGE or INVALID naming the field
 */
export function vmWithId(config: Config, flags: ThisVmFlags, id: string): Registration {
  return parseOwnRegistration(completeEntry(config, flags, { id }));
}

/** Completes an entry of a file like {@link vmWithId}. Its own fields take precedence. An entry without an id is this VM. */
export function completeEntry(config: Config, flags: ThisVmFlags, entry: { id?: unknown }): Record<string, unknown> {
  const { id = thisVmId(config) } = entry;
  const isThisVm = id === thisVmId(config);
  const own = (key: 'name' | 'role' | 'address') => {
    const found = config.find(key);
    return isThisVm || found?.origin.startsWith('flag') ? found?.value : undefined;
  };
  return {
    ...fieldsOf(config, flags),
    name: own('name') ?? (entry.id === undefined ? hostname() : id),
    role: own('role') ?? settingOf('role').default,
    address: own('address') ?? defaultAddress(String(id)),
    id,
    ...entry,
  };
}

/** The fields that do not depend on the id. */
function fieldsOf(config: Config, { status, service, meta, parent }: ThisVmFlags) {
  return {
    status,
    services: service?.map(parseServiceFlag),
    metadata: meta ? parseMetaFlags(meta) : undefined,
    parentId: parent,
    registeredBy: config.get('registered-by') ?? agentName(config) ?? userName(),
  };
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
