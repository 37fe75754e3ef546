/**
 * Enrolment: a VM that has only the enrol token of its image registers itself and gets a token of its own, which may change
 * that VM alone. Registration and token are committed together.
 */
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { diff, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { IssuedToken, Token, Tokens } from './tokens.ts';

/** Milliseconds within which an enrolment may be repeated because its response was lost. An agent retries within seconds. */
const REPEAT_WITHIN = 60_000;
/** Errors of the registry that mean that the id is taken, or was changed meanwhile. */
const TAKEN: readonly ErrorCode[] = ['CONFLICT', 'PRECONDITION_FAILED'];

interface Enrolment {
  enroller: Token;
  registration: Registration;
  /** Address of the client. */
  from: string | undefined;
  write: WriteOptions;
}

/**
 * @returns the new entry, and the secret of its token
 * @throws VregError CONFLICT if the id is taken, FORBIDDEN if the token is for other VMs, UNAUTHORIZED if the token was
 *   revoked meanwhile, and the store's errors
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
  const repeated = findRepeated(registry, tokens.ofVm(id), { enroller, registration, from });
  // The expected revision turns the repetition into a conflict if the VM was changed meanwhile.
  const registered = repeated
    ? registry.replace(registration, { ...options, expect: repeated.version.revision }).then(({ entry }) => entry)
    : registry.register(registration, options);
  const entry = await registered.catch((error: unknown) => {
    throw explainConflict(error, id);
  });
  if (issued!.isRevoked()) {
    throw new VregError('UNAUTHORIZED', `Unauthorized — the tokens that "${enroller.name}" issues were revoked`, {
      hint: 'use another token',
    });
  }
  return { entry, secret: issued!.secret };
}

/**
 * A client whose response was lost may repeat the enrolment: with the same fields, from the same address, before the first
 * use of the issued token, and within {@link REPEAT_WITHIN}.
 * @returns the entry of the first attempt
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

function explainConflict(error: unknown, id: string): unknown {
  if (!(error instanceof VregError) || !TAKEN.includes(error.code)) return error;
  return new VregError('CONFLICT', 'VM already registered', {
    field: 'id',
    hint: `an enrol token is for new VMs only: remove the old VM (vreg rm ${id}), or create a token for it (vreg token create NAME --scope write --vm ${id})`,
  });
}
