/**
 * How a VM comes in with nothing but the token of its image: it registers itself, and gets a token of its own, which may
 * touch that VM alone. Registration and token become durable together.
 */
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { diff, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { Token } from './token.ts';
import type { Born, Tokens } from './tokens.ts';

/** Milliseconds after which an answer that did not arrive is not asked for any more: an agent asks again within seconds. */
const LOST_FOR = 60_000;
/** How the registry says that an id is another's, or was changed. */
const TAKEN: readonly ErrorCode[] = ['CONFLICT', 'PRECONDITION_FAILED'];

/**
 * @param from the address that asks
 * @throws VregError CONFLICT when the id is taken, FORBIDDEN when it is not for this token, UNAUTHORIZED when that was
 *   revoked meanwhile, and the store's errors
 */
export async function enrol(
  registry: Registry,
  tokens: Tokens,
  { enroller, registration, from, write }: Enrolment,
): Promise<{ entry: VmRecord; secret: string }> {
  const { id } = registration;
  let born: Born | undefined;
  const options: WriteOptions = {
    ...write,
    alongside: (created) => {
      born = tokens.prepareBorn(enroller, registration, created, from);
      return [born.record];
    },
  };
  const repeated = repeatedOf(registry, tokens.ofVm(id), { enroller, registration, from });
  // Where somebody changes it in the same moment, the enrolment is another one by now.
  const entered = repeated
    ? registry.replace(registration, { ...options, expect: repeated.version.revision }).then(({ entry }) => entry)
    : registry.register(registration, options);
  const entry = await entered.catch((error: unknown) => {
    born?.drop();
    throw explained(error, id);
  });
  if (!born!.add()) {
    throw new VregError('UNAUTHORIZED', `Unauthorized — what comes in with "${enroller.name}" was revoked meanwhile`, {
      hint: 'ask for another token',
    });
  }
  // Somebody may have removed it in the same moment.
  if (!registry.has(id)) tokens.forgetVm(id);
  return { entry, secret: born!.secret };
}

interface Enrolment {
  enroller: Token;
  registration: Registration;
  from: string | undefined;
  write: WriteOptions;
}

/** An answer that was lost may be asked for again: in the same words, from the same place, and soon. @returns the entry */
function repeatedOf(
  registry: Registry,
  known: Token | undefined,
  { enroller, registration, from }: Omit<Enrolment, 'write'>,
): VmRecord | undefined {
  if (!known || !registry.has(registration.id)) return undefined;
  const { enrolledBy, lastUsedAt, enrolledFrom, createdAt } = known.stored;
  const entry = registry.get(registration.id);
  const { vm } = entry;
  const isRepeated =
    enrolledBy === enroller.name &&
    lastUsedAt === undefined &&
    enrolledFrom === (from || undefined) &&
    registry.clock.now() - Date.parse(createdAt) < LOST_FOR &&
    Object.keys(diff(vm, { ...registration, registeredAt: vm.registeredAt })).length === 0;
  return isRepeated ? entry : undefined;
}

function explained(error: unknown, id: string): unknown {
  if (!(error instanceof VregError) || !TAKEN.includes(error.code)) return error;
  return new VregError('CONFLICT', 'VM already registered', {
    field: 'id',
    hint: `an enrol token is for new VMs: remove the old one (vreg rm ${id}), or give it a token of its own (vreg token create NAME --scope write --vm ${id})`,
  });
}
