/**
 * Builds the registration of the VM on which this program runs, from the settings and the host, for `vreg register` and the
 * agent.
 */
import { hostname, userInfo } from 'node:os';
import { namingOrigin } from '../config/secret-file.ts';
import { settingOf } from '../config/settings.ts';
import type { Config, Found } from '../config.ts';
import { VregError } from '../protocol/errors.ts';
import { parseParentId, parseRegistration, type Registration, type Role } from '../protocol/vm.ts';
import { parseMetaFlags, parseServiceFlag } from './flags.ts';

/**
 * The id of this VM, and where it comes from: the setting `id`, the file that the setting `id-file` names, or the host name. If
 * both settings are given, the one with the higher precedence applies.
 * @throws VregError USAGE if the file cannot be read or contains no id
 */
export function findVmId(config: Config): Found {
  const id = config.firstGiven('id', 'id-file') === 'id-file' ? undefined : config.find('id');
  if (id) return id;
  const file = readIdFile(config);
  return file ? { value: file.vmId, origin: file.path } : { value: hostname(), origin: 'the host name' };
}

export function thisVmId(config: Config): string {
  return findVmId(config).value;
}

interface IdFile {
  path: string;
  vmId: string;
  parentVmId: string | undefined;
}

/** @returns undefined if the setting `id-file` is not given */
function readIdFile(config: Config): IdFile | undefined {
  const found = config.find('id-file');
  return found && namingOrigin(found.origin, () => parseIdFile(found.value, config));
}

function parseIdFile(path: string, config: Config): IdFile {
  const hint = 'write it as {"vmId": "ID", "parentVmId": "ID"}';
  const refused = (why: string) => new VregError('USAGE', `the id file ${path} ${why}`, { field: 'id-file', hint });
  const { vmId, parentVmId = null } = readIdContent(config, refused, hint);
  if (typeof vmId !== 'string' || vmId.trim() === '') throw refused('has no vmId');
  if (parentVmId !== null && typeof parentVmId !== 'string') throw refused('has a parentVmId that is not a string');
  return { path, vmId: vmId.trim(), parentVmId: parentVmId?.trim() || undefined };
}

function readIdContent(config: Config, refused: (why: string) => VregError, hint: string): Record<string, unknown> {
  try {
    return config.jsonFile('id-file', 'the id file', hint)!.content;
  } catch (error) {
    const { code } = ((error as VregError).cause ?? {}) as NodeJS.ErrnoException;
    throw code === 'ENOENT' || code === 'ENOTDIR' ? refused('does not exist') : error;
  }
}

/**
 * The parent of this VM, from the id file or `REEF_PARENT_VM_ID`.
 * @returns undefined if the id is that of another VM, or if the VM would be its own parent
 * @throws VregError INVALID naming the file or the variable
 */
export function findParent(config: Config, id: string): string | undefined {
  if (id !== thisVmId(config)) return undefined;
  const file = readIdFile(config);
  const ofFile = file?.vmId === id ? file.parentVmId : undefined;
  const parent = ofFile ?? config.env.REEF_PARENT_VM_ID?.trim();
  if (!parent || parent === id) return undefined;
  try {
    return parseParentId(parent, 'parentId', id);
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    const origin = ofFile === undefined ? 'REEF_PARENT_VM_ID' : file!.path;
    throw new VregError(error.code, `${error.message} (from ${origin})`, { field: 'parentId' });
  }
}

/**
 * Metadata of this VM from its environment: `commitId`, the Vers commit from which it was started.
 * @returns undefined if there is none, or if the id is that of another VM
 */
export function findMetadata(config: Config, id: string): Record<string, unknown> | undefined {
  const commitId = id === thisVmId(config) ? config.env.VERS_COMMIT_ID?.trim() : undefined;
  return commitId ? { commitId } : undefined;
}

export interface ThisVmFlags {
  status?: string;
  service?: string[];
  meta?: string[];
  parent?: string | undefined;
}

/**
 * This VM's registration from flags, variables, files and defaults. The metadata are those of the flags only, see
 * {@link withMetadata}.
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
    parentId: flags.parent ?? findParent(config, id),
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

/** Null in these fields is an error: it is probably a value that the writer of the file did not find. */
const REQUIRED: readonly string[] = ['id', 'name', 'role', 'address'];

/**
 * Completes an entry of a file like {@link vmWithId}. Its own fields take precedence; null in an optional field counts as
 * missing. An entry without an id is this VM.
 * @param ownId the id of this VM, if it is not that of the settings
 */
export function completeEntry(
  config: Config,
  flags: ThisVmFlags,
  given: { id?: unknown },
  ownId = thisVmId(config),
): Record<string, unknown> {
  const fields = Object.entries(given).filter(([field, value]) => value !== null || REQUIRED.includes(field));
  const entry: { id?: unknown } = Object.fromEntries(fields);
  const { id = thisVmId(config) } = entry;
  const isThisVm = id === ownId;
  const own = (key: 'name' | 'role' | 'address') => {
    const found = config.find(key);
    return isThisVm || found?.origin.startsWith('flag') ? found?.value : undefined;
  };
  const hasParent = ['parentId', 'parentVmId'].some((field) => Object.hasOwn(entry, field));
  return {
    ...fieldsOf(config, flags),
    parentId: hasParent ? undefined : (flags.parent ?? findParent(config, String(id))),
    name: own('name') ?? (entry.id === undefined ? hostname() : id),
    role: own('role') ?? settingOf('role').default,
    address: own('address') ?? defaultAddress(String(id)),
    id,
    ...entry,
  };
}

/** The fields that do not depend on the id. */
function fieldsOf(config: Config, { status, service, meta }: ThisVmFlags) {
  return {
    status,
    services: service?.map(parseServiceFlag),
    metadata: meta ? parseMetaFlags(meta) : undefined,
    registeredBy: config.get('registered-by') ?? agentName(config) ?? userName(),
  };
}

/** Adds the metadata of {@link findMetadata} to a new entry; metadata of the flags override them. */
export function withMetadata(config: Config, vm: Registration): Registration {
  const found = findMetadata(config, vm.id);
  return found ? { ...vm, metadata: { ...found, ...vm.metadata } } : vm;
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
