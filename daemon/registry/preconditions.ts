/** What a change does to an entry, field by field, and whether it may be made. */

import { VregError } from '../../src/protocol/errors.ts';
import type { ChangeType, FieldChanges } from '../../src/protocol/events.ts';
import type { Restriction } from '../../src/protocol/token.ts';
import type { Vm, VmUpdate } from '../../src/protocol/vm.ts';
import type { RecordChange } from '../store/store.ts';
import type { Spec, VmRecord } from './vm-record.ts';

/** Who is named when nobody had to say who they are. */
export const ANONYMOUS = 'anonymous';

/** The VMs that somebody may touch. */
export interface TokenRestriction extends Restriction {
  /** Revision of the one registration that they are let in with: under another one, its id is another VM's. */
  created?: number | undefined;
}

/** Who changes, and what of the entry they have seen. */
export interface WriteOptions {
  /** A token's name, or `anonymous`. */
  by?: string | undefined;
  /** Revision that the entry must still have; `any` asks only that there is one, `none` that there is none. */
  expect?: number | 'any' | 'none' | undefined;
  /** The VMs that they may touch; all when nothing is said. */
  restriction?: TokenRestriction | undefined;
  /** What becomes durable with the change, or not at all. @param created revision of the VM's registration */
  alongside?: ((created: number) => readonly RecordChange[]) | undefined;
}

/** True of a VM that a token with that limit is for. */
export function permits(restriction: Restriction | undefined, { id, role }: { id: string; role: string }): boolean {
  return (restriction?.vm ?? id) === id && (restriction?.role ?? role) === role;
}

/** @throws VregError FORBIDDEN when a VM is another's */
export function assertPermitted(restriction: Restriction | undefined, { id, role }: Pick<Vm, 'id' | 'role'>): void {
  if (restriction?.vm !== undefined && restriction.vm !== id) {
    throw new VregError('FORBIDDEN', `this token is for the VM "${restriction.vm}", and for no other`, {
      field: 'id',
      hint: `make one for this VM: vreg token create NAME --scope write --vm ${id}`,
    });
  }
  if (restriction?.role !== undefined && restriction.role !== role) {
    throw new VregError('FORBIDDEN', `this token is for VMs of the role ${restriction.role}, and for no others`, {
      field: 'role',
      hint: `make one for this role: vreg token create NAME --scope write --role ${role}`,
    });
  }
}

/** @throws VregError as {@link assertPermitted} and {@link checkRegistration} */
export function checkEntry(restriction: TokenRestriction | undefined, { vm, version }: VmRecord): void {
  assertPermitted(restriction, vm);
  checkRegistration(restriction, version.created);
}

/**
 * @param created of the registration that is to be touched; undefined of a new one
 * @throws VregError UNAUTHORIZED when that is another one than the token was made for
 */
export function checkRegistration({ created: own }: TokenRestriction = {}, created?: number): void {
  if (own === undefined || own === created) return;
  throw new VregError('UNAUTHORIZED', 'Unauthorized — the VM of this token was removed', {
    hint: 'enrol it anew, with the token of its image',
  });
}

/** @throws VregError PRECONDITION_FAILED (RFC 9110, If-Match and If-None-Match) */
export function checkExpected(entry: VmRecord | undefined, expect: WriteOptions['expect']): void {
  if (expect === undefined) return;
  const met =
    expect === 'none' ? !entry : entry !== undefined && (expect === 'any' || expect === entry.version.revision);
  if (met) return;
  const what = entry ? `VM "${entry.vm.id}" has revision ${entry.version.revision} by now` : 'VM not found';
  throw new VregError('PRECONDITION_FAILED', `${what}: it is not what you have seen`, {
    hint: 'read it again, and decide anew',
  });
}

export function applyUpdate(vm: Spec, update: VmUpdate): Spec {
  const { services, metadata, ...rest } = { ...vm, ...update };
  return { ...rest, ...(services ? { services } : {}), ...(metadata ? { metadata } : {}) };
}

/** Fields that differ, with both values; all of them when an entry comes or goes. */
export function diff(before: Spec | undefined, after: Spec | undefined): FieldChanges {
  const changes: FieldChanges = {};
  const fields = new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})] as (keyof Spec)[]);
  for (const field of fields) {
    const pair: [unknown, unknown] = [before?.[field] ?? null, after?.[field] ?? null];
    // What an update leaves alone is the same object, and may be large.
    if (pair[0] === pair[1]) continue;
    if (JSON.stringify(pair[0]) !== JSON.stringify(pair[1])) changes[field] = pair;
  }
  return changes;
}

export function typeOf(wasThere: boolean, changes: FieldChanges): ChangeType {
  if (!wasThere) return 'registered';
  return changes.status ? 'status' : 'updated';
}

export function taken(): VregError {
  return new VregError('CONFLICT', 'VM already registered', {
    field: 'id',
    hint: 'change it with PATCH (vreg update), or register with --if-exists update',
  });
}

export function notFound(): VregError {
  return new VregError('NOT_FOUND', 'VM not found', { field: 'id', hint: 'list registered VMs: vreg ls' });
}
