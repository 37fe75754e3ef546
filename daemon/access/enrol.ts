/**
 * Enrolment: a VM that has only the enrol token of its image registers itself and receives its own token, which may change only
 * that VM. The registration and the token are committed together.
 *
 * A VM recreated with a new disk has lost its own token, and a registry restored from an older copy does not know it. In both
 * cases the VM may enrol again once it has been silent for one lease period. It keeps its place in lists if its role and its
 * enrol token are the same as before. Otherwise, the old entry is removed, and the VM is registered as a new one.
 */
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { diff, permits, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { Token } from './token.ts';
import type { IssuedToken, Tokens } from './tokens.ts';

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
      const silent = findSilent(registry, issuedBefore, { enroller, registration, from, write });
      if (!silent) throw error;
      if (!isReturning(silent, issuedBefore, { enroller, registration })) {
        await registry.deregister(id, { ...write, expect: [silent.position] });
        return registry.register(registration, options);
      }
      const returned = await replace(silent);
      registry.identities.release(id);
      return returned;
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
  const age = registry.clock.now() - Date.parse(createdAt);
  const isRepeated =
    enrolledBy === enroller.name &&
    lastUsedAt === undefined &&
    enrolledFrom === (from || undefined) &&
    // Negative if the wall clock was set back, so the age is not known.
    age >= 0 &&
    age < REPEAT_WITHIN &&
    Object.keys(diff(vm, { ...registration, registeredAt: vm.registeredAt })).length === 0;
  return isRepeated ? entry : undefined;
}

/**
 * Finds the entry of an enrolled VM that has lost its token and enrols again.
 * @returns undefined if the entry was not enrolled, its token was revoked, or the enrol token does not permit its role
 * @throws VregError CONFLICT and IDENTITY_CONFLICT as {@link Registry.assertVacant}, if the VM has not been silent for one
 * lease period
 */
function findSilent(
  registry: Registry,
  issued: Token | undefined,
  { enroller, registration, from, write }: Enrolment,
): VmRecord | undefined {
  const { id, address } = registration;
  if (!issued || !registry.has(id)) return undefined;
  const entry = registry.get(id);
  // Otherwise, the token of a worker's image could remove an infra VM that is suspended.
  if (!permits(write.restriction, entry)) return undefined;
  registry.assertVacant(id, { address, from, isReturning: isReturning(entry, issued, { enroller, registration }) });
  return entry;
}

/** True if the role and the enrol token are the same as before. Only then, the VM keeps its place in lists. */
function isReturning(
  { role }: VmRecord,
  issued: Token | undefined,
  { enroller, registration }: Pick<Enrolment, 'enroller' | 'registration'>,
): boolean {
  return role === registration.role && issued?.stored.enrolledBy === enroller.name;
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
