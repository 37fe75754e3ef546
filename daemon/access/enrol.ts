/**
 * Enrolment: a VM that has only the enrol token of its image registers itself and receives its own token, which may change only
 * that VM. The registration and the token are committed together.
 *
 * A VM recreated with a new disk has lost its own token, and a registry restored from an older copy does not know it. In both
 * cases the VM may enrol again with the same enrol token, once it has been silent for one lease period.
 */
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { diff, permits, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { IssuedToken, Token, Tokens } from './tokens.ts';

/** Milliseconds within which an enrolment may be repeated, in case its response was lost. An agent retries within seconds. */
const REPEAT_WITHIN = 60_000;
/** Error codes of the registry which mean that the id is already registered, or that the entry has changed in the meantime. */
const TAKEN: readonly ErrorCode[] = ['CONFLICT', 'PRECONDITION_FAILED'];

interface Enrolment {
  enroller: Token;
  registration: Registration;
  /** Network address of the client; undefined on a unix socket. */
  from: string | undefined;
  write: WriteOptions;
}

/**
 * @returns the new entry, and the secret of its token
 * @throws VregError CONFLICT if the id is taken, with `retryAfter` if the VM may enrol again once it has been silent for one
 * lease period; IDENTITY_CONFLICT if the registered VM has sent a heartbeat in the meantime; FORBIDDEN if the token is
 * restricted to other VMs; UNAUTHORIZED if the token was revoked in the meantime; and the store's errors
 */
export async function enrol(
  registry: Registry,
  tokens: Tokens,
  { enroller, registration, from, write }: Enrolment,
): Promise<{ entry: VmRecord; secret: string }> {
  const { id } = registration;
  let issued: IssuedToken | undefined;
  const options: WriteOptions = {
    ...write,
    attach: (created) => {
      issued = tokens.issue(enroller, registration, created, from);
      return issued.attachment;
    },
  };
  const issuedBefore = tokens.ofVm(id);
  const repeated = findRepeated(registry, issuedBefore, { enroller, registration, from });
  // Expect the current position, so that this fails if the VM changes in the meantime.
  const replace = async ({ position }: VmRecord) =>
    (await registry.replace(registration, { ...options, expect: [position] })).entry;
  const register = async () => {
    try {
      return await registry.register(registration, options);
    } catch (error) {
      if (!hasCode(error, 'CONFLICT')) throw error;
      const returning = findReturning(registry, issuedBefore, { enroller, registration, from, write });
      if (!returning) throw error;
      return replace(returning);
    }
  };
  const entry = await (repeated ? replace(repeated) : register()).catch((error: unknown) => {
    throw explainConflict(error, id);
  });
  if (issued!.isRevoked()) {
    throw new VregError('UNAUTHORIZED', `Unauthorized — the tokens issued by "${enroller.name}" were revoked`, {
      hint: 'use another token',
    });
  }
  return { entry, secret: issued!.secret };
}

/**
 * Finds the first attempt of a repeated enrolment. A client whose response was lost may repeat it with the same fields, from
 * the same address, before the issued token is first used, and within {@link REPEAT_WITHIN}.
 * @returns the entry that the first attempt registered; undefined if this is not a repetition
 */
function findRepeated(
  registry: Registry,
  issued: Token | undefined,
  { enroller, registration, from }: Omit<Enrolment, 'write'>,
): VmRecord | undefined {
  if (!issued || !registry.has(registration.id)) return undefined;
  const { enrolledBy, lastUsedAt, enrolledFrom, createdAt } = issued.stored;
  const entry = registry.get(registration.id);
  const { vm } = entry;
  const isRepeated =
    enrolledBy === enroller.name &&
    lastUsedAt === undefined &&
    enrolledFrom === (from || undefined) &&
    registry.clock.now() - Date.parse(createdAt) < REPEAT_WITHIN &&
    Object.keys(diff(vm, { ...registration, registeredAt: vm.registeredAt })).length === 0;
  return isRepeated ? entry : undefined;
}

/**
 * Finds the entry of a VM that has lost its token and enrols again: it enrolled with the same token and role before.
 * @throws VregError CONFLICT and IDENTITY_CONFLICT as {@link Registry.assertVacant}, if the VM has not been silent for one
 * lease period
 */
function findReturning(
  registry: Registry,
  issued: Token | undefined,
  { enroller, registration, from, write }: Enrolment,
): VmRecord | undefined {
  const { id, role, address } = registration;
  if (issued?.stored.enrolledBy !== enroller.name || !registry.has(id)) return undefined;
  const entry = registry.get(id);
  // The returning VM keeps its place in lists, which it must not take into another role.
  if (entry.vm.role !== role || !permits(write.restriction, entry.vm)) return undefined;
  registry.assertVacant(id, { address, from });
  return entry;
}

function explainConflict(error: unknown, id: string): unknown {
  // A conflict that the registry has not decided yet already explains itself.
  if (!TAKEN.some((code) => hasCode(error, code)) || (error as VregError).retryAfter !== undefined) return error;
  return new VregError('CONFLICT', 'VM already registered', {
    field: 'id',
    hint: `an enrol token can only register new VMs: remove the old VM (vreg rm ${id}), or create a token for it (vreg token create NAME --scope write --vm ${id})`,
  });
}

function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof VregError && error.code === code;
}
