/**
 * The entry of a VM, and the parsers for untrusted input. The daemon and the CLI use the same parsers, so that both reject the
 * same input with the same message.
 */
import { isPort, normalizeAddress } from './address.ts';
import { invalid, unsafeInScripts, VregError } from './errors.ts';

export const ROLES = ['infra', 'lieutenant', 'worker', 'golden', 'custom'] as const;
export type Role = (typeof ROLES)[number];

/** The declared status. Time and heartbeats never change it. */
export const STATUSES = ['running', 'paused', 'stopped'] as const;
export type Status = (typeof STATUSES)[number];

export interface Service {
  name: string;
  /** TCP port, 1 to 65535. */
  port: number;
  /** HTTP path that responds with 2xx while the service is healthy, e.g. `/health`. */
  healthPath?: string;
  /** Other keys are stored unchanged. */
  [extra: string]: unknown;
}

/** Services and capabilities of a VM, as the reef server describes them. Other keys are stored unchanged. */
export interface ReefConfig {
  services: string[];
  capabilities: string[];
  [extra: string]: unknown;
}

export interface Vm {
  id: string;
  name: string;
  role: Role;
  status: Status;
  /** Host name or IP address for clients, optionally with a port. */
  address: string;
  services?: Service[];
  metadata?: Record<string, unknown>;
  /** Id of the VM from which this one was cloned or created, which need not be registered. */
  parentId?: string;
  /** The same id, in the entry of a client that wrote it under the Vers platform's name for it. */
  parentVmId?: string;
  reefConfig?: ReefConfig;
  registeredBy: string;
  /** RFC 3339, UTC, milliseconds. */
  registeredAt: string;
  /** Last sign of life: RFC 3339, UTC, milliseconds. */
  lastSeen: string;
}

/** The fields of an entry, in the order in which the original registry (vers-agent-services) responds with them. */
export const VM_FIELDS = [
  'id',
  'name',
  'role',
  'status',
  'address',
  'services',
  'metadata',
  'parentId',
  'parentVmId',
  'reefConfig',
  'registeredBy',
  'registeredAt',
  'lastSeen',
] as const satisfies readonly (keyof Vm)[];

/** Copies the fields of an entry in the order of {@link VM_FIELDS}. Fields that are absent or undefined stay absent. */
export function inFieldOrder<T extends { [field in keyof Vm]?: Vm[field] | undefined }>(vm: T): T {
  const ordered: { [field: string]: unknown } = {};
  for (const field of VM_FIELDS) if (vm[field] !== undefined) ordered[field] = vm[field];
  return ordered as T;
}

/** The fields that a client sends to register a VM. */
export type Registration = Omit<Vm, 'registeredAt' | 'lastSeen'>;

/** An entry of another registry, with its times as far as they are known. */
export type ImportedVm = Registration & Partial<Pick<Vm, 'registeredAt' | 'lastSeen'>>;

/** The fields that a client may change. `undefined` leaves a field unchanged; `null` removes it. */
export interface VmUpdate {
  name?: string;
  status?: Status;
  address?: string;
  services?: Service[] | null;
  metadata?: Record<string, unknown> | null;
  reefConfig?: ReefConfig | null;
  /** Both names of the parent have the same value. */
  parentId?: string;
  parentVmId?: string;
}

/** Maximum number of UTF-16 units in one text field: four times the length of the longest DNS name. */
export const MAX_TEXT = 1024;
/** Maximum number of services of one VM: far more than a real VM has. */
export const MAX_SERVICES = 256;
/** Maximum size of a {@link ReefConfig} in bytes of JSON: hundreds of services, and a small part of an entry. */
export const MAX_REEF_CONFIG = 65_536;

export function isRole(value: unknown): value is Role {
  return ROLES.includes(value as Role);
}

export function isStatus(value: unknown): value is Status {
  return STATUSES.includes(value as Status);
}

/**
 * Parses a registration. Text is trimmed, a missing status is `running`, unknown top-level keys are dropped, unknown keys
 * inside services and metadata are kept.
 * @param urlId id from the URL; the body may then omit it
 * @throws VregError INVALID naming the field, the reason and what is accepted
 */
export function parseRegistration(input: unknown, urlId?: string): Registration {
  const body = parseObject(input, 'body');
  const id = parseId(body.id ?? urlId);
  if (urlId !== undefined && id !== urlId) throw invalid('id', `id is "${id}" in the body and "${urlId}" in the URL`);
  const name = parseText(body.name, 'name');
  const role = parseRole(body.role);
  // The original registry treats an empty status as absent.
  const status = body.status ? parseStatus(body.status) : 'running';
  const address = parseAddress(body.address);
  const services = parseServices(body.services);
  const metadata = parseMetadata(body.metadata);
  const parent = parseParent(body, id);
  const reefConfig = parseReefConfig(body.reefConfig);
  const registeredBy = parseText(body.registeredBy, 'registeredBy');
  const fields = { id, name, role, status, address, services, metadata, ...parent, reefConfig, registeredBy };
  return inFieldOrder(fields) as Registration;
}

/**
 * Parses a whole entry: a registration and its times, which become UTC with milliseconds. An absent time stays absent.
 * @throws VregError as {@link parseRegistration}
 */
export function parseImported(input: unknown): ImportedVm {
  const registration = parseRegistration(input);
  const given = input as Record<string, unknown>;
  const [registeredAt, lastSeen] = [
    parseTime(given.registeredAt, 'registeredAt'),
    parseTime(given.lastSeen, 'lastSeen'),
  ];
  return {
    ...registration,
    ...(registeredAt === undefined ? {} : { registeredAt }),
    ...(lastSeen === undefined ? {} : { lastSeen }),
  };
}

/** RFC 3339, 5.6. */
const TIME = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i;

/** @throws VregError INVALID unless the time is a RFC 3339 time after 1970 that exists, or absent */
function parseTime(value: unknown, field: string): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const [text = '', local = ''] = (typeof value === 'string' && TIME.exec(value)) || [];
  const time = Date.parse(text);
  if (time >= 0 && isOnCalendar(local.toUpperCase())) return new Date(time).toISOString();
  throw invalid(field, `invalid ${field}: ${quote(value)} (use RFC 3339, for example 2026-01-31T12:00:00Z)`);
}

/** False for February 30 and for the hour 24, which Date.parse takes for a time on the next day. */
function isOnCalendar(local: string): boolean {
  const time = Date.parse(`${local}Z`);
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(local);
}

/**
 * Parses the fields of a PATCH. `id`, `role`, `parentId`, `registeredBy`, `registeredAt` and `lastSeen` are ignored, as the
 * original registry does. `parentVmId` changes the parent; as in a registration, an empty value counts as absent.
 * @param id id of the VM, which cannot be its own parent
 * @throws VregError INVALID naming the field, the reason and what is accepted
 */
export function parseUpdate(input: unknown, id?: string): VmUpdate {
  const body = parseObject(input, 'body');
  const update: VmUpdate = {};
  if (body.name !== undefined) update.name = parseText(body.name, 'name', 'cannot be empty');
  if (body.status !== undefined) update.status = parseStatus(body.status);
  if (body.address !== undefined) update.address = parseAddress(body.address, 'cannot be empty');
  if (body.services !== undefined) update.services = parseServices(body.services) ?? null;
  if (body.metadata !== undefined) update.metadata = parseMetadata(body.metadata) ?? null;
  const parentVmId = parseParentId(body.parentVmId, 'parentVmId', id);
  if (parentVmId !== undefined) Object.assign(update, { parentId: parentVmId, parentVmId });
  if (body.reefConfig !== undefined) update.reefConfig = parseReefConfig(body.reefConfig) ?? null;
  return update;
}

/**
 * Parses `{ids: [...]}`.
 * @throws VregError INVALID
 */
export function parseIds(input: unknown, max: number): string[] {
  const { ids } = parseObject(input, 'body');
  if (ids === undefined) throw invalid('ids', 'ids is required and must be an array of strings');
  if (!Array.isArray(ids)) throw invalid('ids', `ids must be an array of strings, not ${kindOf(ids)}`);
  if (ids.length > max) throw invalid('ids', `too many ids: ${ids.length} (limit ${max})`);
  return ids.map((id, index) => parseText(id, `ids[${index}]`));
}

/** @throws VregError INVALID listing the roles */
export function parseRole(value: unknown): Role {
  if (isRole(value)) return value;
  const given =
    value === undefined || value === null || value === '' ? 'role is required' : `invalid role: ${quote(value)}`;
  throw invalid('role', `${given} (one of ${ROLES.join(', ')})`);
}

/** @throws VregError INVALID listing the statuses */
export function parseStatus(value: unknown): Status {
  if (isStatus(value)) return value;
  throw invalid('status', `invalid status: ${quote(value)} (one of ${STATUSES.join(', ')})`);
}

function parseId(value: unknown): string {
  const id = parseText(value, 'id');
  // URL parsers remove a path segment of dots, so no request could reach this id.
  if (id === '.' || id === '..') throw invalid('id', `id cannot be "${id}": no URL can address it`);
  return refuseFlags(id, 'id');
}

/** A word that begins with `-`. xargs removes quotes and backslashes. */
const FLAG = /(?:^|\s)["'\\]*-/;

/** True if a command would take the text, or one of its words, for a flag when a script passes it unquoted. */
export function looksLikeFlag(text: string): boolean {
  return FLAG.test(text);
}

/** Characters at which a shell or xargs splits or expands the output of `vreg ls -q`. */
const SPLITTING = /[\s"'\\*?[]/;

/**
 * An id with a space would name other VMs in `vreg ls -q | xargs vreg rm`, with the rights of the operator.
 * @throws VregError INVALID for an id that a limited token must not choose
 */
export function assertUnsplittable(id: string): void {
  const [character] = SPLITTING.exec(id) ?? [];
  if (character === undefined) return;
  throw invalid(
    'id',
    `invalid id ${JSON.stringify(id)}: a limited token cannot use ${JSON.stringify(character)} in an id`,
  );
}

/** @throws VregError INVALID for an id that `vreg get $(vreg ls -q)` would turn into flags */
function refuseFlags(id: string, field: string): string {
  if (!looksLikeFlag(id)) return id;
  const what = id.startsWith('-') ? 'begin with "-"' : 'contain a word that begins with "-"';
  throw invalid(field, `${field} cannot ${what}: a command would take it for a flag`);
}

/**
 * Parses an address and normalizes it, see {@link normalizeAddress}.
 * @throws VregError INVALID naming what is accepted
 */
export function parseAddress(value: unknown, whenEmpty?: string): string {
  const text = parseText(value, 'address', whenEmpty);
  const address = normalizeAddress(text);
  if (address !== undefined) return address;
  throw invalid(
    'address',
    `invalid address "${quote(text)}": use a host name, an IPv4 or an IPv6 address, each optionally with :port`,
  );
}

/**
 * Checks the fields of an entry that scripts pass to commands: id, parent and address. A registry may have stored the entry before the
 * rules existed, or may not be a vreg daemon.
 * @returns why the entry must not be offered to scripts; undefined if it is well-formed
 */
export function entryFault(
  entry: Record<'id' | 'address', unknown> & { [field in 'parentId' | 'parentVmId']?: unknown },
) {
  return faultOf(() => {
    parseId(entry.id);
    parseParent(entry, entry.id);
    parseAddress(entry.address);
  });
}

/** @returns why the id must not be offered to scripts; undefined if it is well-formed */
export function idFault(id: unknown): VregError | undefined {
  const cause = faultOf(() => parseId(id));
  return cause && unsafeEntry(String(id), cause);
}

function faultOf(parse: () => void): VregError | undefined {
  try {
    parse();
    return undefined;
  } catch (error) {
    if (error instanceof VregError) return error;
    throw error;
  }
}

/**
 * Prepares a field for scripts: an address that is a URL becomes host and port, an invalid address becomes `-`, an id that
 * looks like a flag becomes undefined, and services with invalid ports are omitted.
 */
export function fieldForScripts(field: string, value: unknown): unknown {
  if (value === undefined || value === null) return value;
  switch (field) {
    case 'address':
      return (typeof value === 'string' && normalizeAddress(value.trim())) || '-';
    case 'id':
    case 'parentId':
    case 'parentVmId':
      return typeof value === 'string' && !looksLikeFlag(value) ? value : undefined;
    case 'services':
      return Array.isArray(value) ? value.filter((service) => isPort(service?.port)) : undefined;
    default:
      return value;
  }
}

/**
 * Prepares an entry for scripts, see {@link fieldForScripts}. The id remains, because a fault names it.
 * @returns also a fault, which names the VM and the field, if scripts must not act on the entry
 */
export function forScripts<T extends Vm>(vm: T): { row: T; fault: VregError | undefined } {
  const cause = entryFault(vm);
  const row = { ...vm } as unknown as { [field: string]: unknown };
  row.address = fieldForScripts('address', vm.address ?? '');
  for (const field of ['services', 'parentId', 'parentVmId'] as const) {
    const value = fieldForScripts(field, vm[field]);
    if (value === undefined || value === null) delete row[field];
    else row[field] = value;
  }
  return { row: row as unknown as T, fault: cause && unsafeEntry(String(vm.id), cause) };
}

function unsafeEntry(id: string, { field, message }: VregError): VregError {
  return new VregError('INVALID', unsafeInScripts(`VM "${id}"`, message), {
    ...(field === undefined ? {} : { field }),
    hint: 'correct the entry (vreg update ID --address ADDRESS) or remove it (vreg rm -- ID)',
  });
}

/**
 * Parses `parentId` and `parentVmId`, the Vers platform's name for it. An empty value counts as absent.
 * @returns the parent as `parentId`, and under the other name as well if the client uses that name
 * @throws VregError INVALID
 */
function parseParent(
  body: { [field in 'parentId' | 'parentVmId']?: unknown },
  id: unknown,
): { parentId?: string; parentVmId?: string } {
  const parentVmId = parseParentId(body.parentVmId, 'parentVmId', id);
  const parentId = parseParentId(body.parentId, 'parentId', id) ?? parentVmId;
  if (parentId === undefined) return {};
  if (parentVmId === undefined) return { parentId };
  if (parentId !== parentVmId) throw differentParents();
  return { parentId, parentVmId };
}

/** @returns undefined for an empty value @throws VregError INVALID naming the field */
export function parseParentId(value: unknown, field: string, id: unknown): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const parentId = parseText(value, field);
  if (parentId === id) throw invalid(field, `${field} cannot be the VM's own id`);
  return refuseFlags(parentId, field);
}

/** The error for a request with two names of the parent and two values. */
export function differentParents(): VregError {
  return invalid('parentVmId', 'parentId and parentVmId differ: send only one of them');
}

/** @throws VregError INVALID naming the field */
function parseReefConfig(value: unknown): ReefConfig | undefined {
  if (value === undefined || value === null) return undefined;
  const given = parseObject(value, 'reefConfig');
  const services = parseNames(given.services, 'reefConfig.services');
  const capabilities = parseNames(given.capabilities, 'reefConfig.capabilities');
  const config = { ...given, services, capabilities };
  const size = Buffer.byteLength(JSON.stringify(config));
  if (size > MAX_REEF_CONFIG)
    throw invalid('reefConfig', `reefConfig is too large: ${size} bytes of JSON (limit ${MAX_REEF_CONFIG})`);
  return config;
}

/** @throws VregError INVALID naming the element */
function parseNames(value: unknown, field: string): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(field, `${field} must be an array of strings, not ${kindOf(value)}`);
  return value.map((name, index) => parseText(name, `${field}[${index}]`));
}

/** Parses one line of text and trims it. @throws VregError INVALID naming the field */
export function parseText(value: unknown, field: string, whenEmpty = 'is required'): string {
  if (value === undefined || value === null) throw invalid(field, `${field} ${whenEmpty}`);
  if (typeof value !== 'string') throw invalid(field, `${field} must be a string, not ${kindOf(value)}`);
  const text = value.trim();
  if (text === '') throw invalid(field, `${field} ${whenEmpty}`);
  if (text.length > MAX_TEXT)
    throw invalid(field, `${field} is too long: ${text.length} characters (limit ${MAX_TEXT})`);
  if (/[\u0000-\u001f\u007f-\u009f]/.test(text)) throw invalid(field, `${field} cannot contain control characters`);
  if (!text.isWellFormed()) throw invalid(field, `${field} is not well-formed Unicode`);
  return text;
}

function parseServices(value: unknown): Service[] | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value))
    throw invalid('services', `services must be an array of {name, port}, not ${kindOf(value)}`);
  if (value.length > MAX_SERVICES)
    throw invalid('services', `too many services: ${value.length} (limit ${MAX_SERVICES})`);
  return value.map((item, index) => {
    const field = `services[${index}]`;
    const service = parseObject(item, field);
    const name = parseText(service.name, `${field}.name`);
    const port = service.port;
    if (!isPort(port)) {
      const quoted = typeof port === 'string' ? `"${quote(port)}"` : quote(port);
      const given = port === undefined ? 'is required' : `is ${quoted}`;
      throw invalid(`${field}.port`, `${field}.port ${given}: it must be an integer from 1 to 65535`);
    }
    const { healthPath, ...rest } = service;
    if (healthPath === undefined || healthPath === null) return { ...rest, name, port };
    if (typeof healthPath !== 'string') {
      throw invalid(`${field}.healthPath`, `${field}.healthPath must be a string, not ${kindOf(healthPath)}`);
    }
    return { ...service, name, port };
  });
}

function parseMetadata(value: unknown): Record<string, unknown> | undefined {
  if (value === undefined || value === null) return undefined;
  return parseObject(value, 'metadata');
}

/** @throws VregError INVALID naming the field */
export function parseObject(value: unknown, field: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const given =
      value === undefined ? 'is required and must be a JSON object' : `must be a JSON object, not ${kindOf(value)}`;
    throw invalid(field, `${field} ${given}`);
  }
  return value as Record<string, unknown>;
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (value === undefined) return 'missing';
  if (typeof value === 'object') return Array.isArray(value) ? 'an array' : 'an object';
  return `a ${typeof value}`;
}

/** Quotes a value in an error: at most 60 characters, without control characters. */
function quote(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
  const plain = text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
  return plain.length > 60 ? `${plain.slice(0, 60)}…` : plain;
}
