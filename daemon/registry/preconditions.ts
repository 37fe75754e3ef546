/** Preconditions of a change: the principal's restriction and the expected revision. Also computes the changed fields. */
import { VregError } from '../../src/protocol/errors.ts';
import type { ChangeType, FieldChanges } from '../../src/protocol/events.ts';
import type { Restriction } from '../../src/protocol/token.ts';
import type { Vm, VmUpdate } from '../../src/protocol/vm.ts';
import type { Spec, VmRecord } from './vm-record.ts';
import type { Attachment } from './writes.ts';

/** Name of the author of a change if clients need no token. */
export const ANONYMOUS = 'anonymous';

/** The VMs that a token may change. */
export interface TokenRestriction extends Restriction {
  /** Revision of the registration for which the token was issued. A later VM with the same id is another VM. */
  created?: number | undefined;
}

/** The author of a change, and its preconditions. */
export interface WriteOptions {
  /** Name of the author's token, or `anonymous`. */
  by?: string | undefined;
  /** The entry's position must be one of these; `any` requires that the entry exists, `none` that it does not. */
  expect?: readonly string[] | 'any' | 'none' | undefined;
  /** The VMs that the author may change; undefined means all. */
  restriction?: TokenRestriction | undefined;
  /** Called after each wait for an import or another replica. @throws VregError UNAUTHORIZED if the author was revoked meanwhile */
  assertActive?: (() => void) | undefined;
  /** Returns records to commit with the change. @param created revision of the VM's registration */
  attach?: ((created: number) => Attachment) | undefined;
}

export function permits(restriction: Restriction | undefined, { id, role }: { id: string; role: string }): boolean {
  return (restriction?.vm ?? id) === id && (restriction?.role ?? role) === role;
}

/** @throws VregError FORBIDDEN unless the restriction {@link permits} the VM */
export function assertPermitted(restriction: Restriction | undefined, { id, role }: Pick<Vm, 'id' | 'role'>): void {
  if (restriction?.vm !== undefined && restriction.vm !== id) {
    throw new VregError('FORBIDDEN', `this token is restricted to VM "${restriction.vm}"`, {
      field: 'id',
      hint: `create a token for this VM: vreg token create NAME --scope write --vm ${id}`,
    });
  }
  if (restriction?.role !== undefined && restriction.role !== role) {
    throw new VregError('FORBIDDEN', `this token is restricted to VMs with the role ${restriction.role}`, {
      field: 'role',
      hint: `create a token for this role: vreg token create NAME --scope write --role ${role}`,
    });
  }
}

/** @throws VregError as {@link assertPermitted} and {@link assertSameRegistration} */
export function assertMayChange(restriction: TokenRestriction | undefined, entry: VmRecord): void {
  assertPermitted(restriction, entry);
  assertSameRegistration(restriction, entry.version.created);
}

/**
 * True if the token may send heartbeats for the VM. An operator may change the role of an enrolled VM. The VM's own token, which
 * is restricted to the role of the registration, then no longer permits changes, but the VM must stay live.
 */
export function permitsHeartbeat(restriction: TokenRestriction | undefined, entry: VmRecord): boolean {
  if (restriction?.created === undefined) return permits(restriction, entry);
  return restriction.vm === entry.id && restriction.created === entry.version.created;
}

/** @throws VregError as {@link assertMayChange}, unless the restriction {@link permitsHeartbeat} */
export function assertMayHeartbeat(restriction: TokenRestriction | undefined, entry: VmRecord): void {
  if (!permitsHeartbeat(restriction, entry)) assertMayChange(restriction, entry);
}

/**
 * Scripts trust the first VM with the role `infra`, so a role is a permission: a restricted token can change the role of a VM
 * only if it is restricted to that VM and to the new role.
 * @throws VregError as {@link assertMayChange}; FORBIDDEN if the token may not change the role
 */
export function assertMayReplace(
  restriction: TokenRestriction | undefined,
  before: VmRecord,
  after: Pick<Vm, 'id' | 'role'>,
): void {
  const { vm, role, created } = restriction ?? {};
  // The token of an enrolled VM is bound to a registration and restricted to the role of that registration.
  const mayMove = vm !== undefined && role !== undefined && created === undefined;
  if (!isMove(restriction, before, after) || !mayMove) assertMayChange(restriction, before);
  assertPermitted(restriction, after);
  if (isMove(restriction, before, after) && !mayMove) throw cannotChangeRole(after);
}

export function cannotChangeRole({ id, role }: Pick<Vm, 'id' | 'role'>): VregError {
  return new VregError('FORBIDDEN', `this token cannot change the role of VM "${id}" to ${role}`, {
    field: 'role',
    hint: `create a token for this role: vreg token create NAME --scope write --vm ${id} --role ${role}`,
  });
}

/**
 * True if a restricted token changes the role of a VM. The VM then moves to the end of lists, as if it had just been
 * registered.
 */
export function isMove(
  restriction: Restriction | undefined,
  before: Pick<VmRecord, 'role'>,
  { role }: Pick<Vm, 'role'>,
): boolean {
  return restriction !== undefined && before.role !== role;
}

/**
 * @param created revision of the registration that is about to change; undefined for a new registration
 * @throws VregError UNAUTHORIZED if the token was issued for another registration of this id
 */
export function assertSameRegistration({ created: own }: TokenRestriction = {}, created?: number): void {
  if (own === undefined || own === created) return;
  throw new VregError('UNAUTHORIZED', 'Unauthorized — the VM of this token was removed', {
    hint: 'enrol the VM again with the enrol token of its image',
  });
}

/** @throws VregError PRECONDITION_FAILED (RFC 9110, If-Match and If-None-Match) */
export function assertExpected(entry: VmRecord | undefined, expect: WriteOptions['expect']): void {
  if (expect === undefined) return;
  const met = expect === 'none' ? !entry : entry !== undefined && (expect === 'any' || expect.includes(entry.position));
  if (met) return;
  throw new VregError('PRECONDITION_FAILED', mismatch(entry, expect === 'none'), {
    hint: 'read the VM again, then decide whether to repeat the change',
  });
}

function mismatch(entry: VmRecord | undefined, mustNotExist: boolean): string {
  if (!entry) return 'VM not found: it was removed since you read it';
  const { id, position } = entry;
  if (mustNotExist) return `VM "${id}" already exists, with the ETag "${position}"`;
  return `VM "${id}" has the ETag "${position}", not the one in if-match: it was changed since you read it`;
}

export function applyUpdate(vm: Spec, update: VmUpdate): Spec {
  const { services, metadata, reefConfig, ...rest } = { ...vm, ...update };
  return {
    ...rest,
    ...(services ? { services } : {}),
    ...(metadata ? { metadata } : {}),
    ...(reefConfig ? { reefConfig } : {}),
  };
}

/** The fields that differ, with both values; all fields if the entry is added or removed. */
export function diff(before: Spec | undefined, after: Spec | undefined): FieldChanges {
  const changes: FieldChanges = {};
  const fields = new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})] as (keyof Spec)[]);
  for (const field of fields) {
    const pair: [unknown, unknown] = [before?.[field] ?? null, after?.[field] ?? null];
    // A field that an update does not contain is the same object. Serializing it could take long.
    if (pair[0] === pair[1]) continue;
    if (pair[0] === null || pair[1] === null) changes[field] = pair;
    else if (JSON.stringify(pair[0]) !== JSON.stringify(pair[1])) changes[field] = pair;
  }
  return changes;
}

export function typeOf(existed: boolean, changes: FieldChanges): ChangeType {
  if (!existed) return 'registered';
  return changes.status ? 'status' : 'updated';
}

export function alreadyRegistered(): VregError {
  return new VregError('CONFLICT', 'VM already registered', {
    field: 'id',
    hint: 'change it with PATCH (vreg update), or register with --if-exists update',
  });
}

export function notFound(): VregError {
  return new VregError('NOT_FOUND', 'VM not found', { field: 'id', hint: 'list registered VMs: vreg ls' });
}
