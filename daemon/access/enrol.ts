/**
 * How a VM comes in with nothing but the token of its image: it registers itself, and gets a token of its own, which may
 * touch that VM alone. Registration and token become durable together.
 */
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { diff, type WriteOptions } from '../registry/changes.ts';
import type { Entry } from '../registry/entry.ts';
import type { Registry } from '../registry/registry.ts';
import type { Token } from './token.ts';
import type { Tokens } from './tokens.ts';

/** Milliseconds after which an answer that did not arrive is not asked for any more: an agent asks again within seconds. */
const LOST_FOR = 60_000;

/**
 * @param from the address that asks
 * @throws VregError CONFLICT when the id is taken, FORBIDDEN when it is not for this token, and the store's errors
 */
export async function enrol(
  registry: Registry,
  tokens: Tokens,
  { enroller, registration, from, write }: Enrolment,
): Promise<{ entry: Entry; secret: string }> {
  const { id } = registration;
  let born: ReturnType<Tokens['prepareBorn']> | undefined;
  const options: WriteOptions = {
    ...write,
    alongside: (created) => {
      born = tokens.prepareBorn(enroller, registration, created, from);
      return [born.record];
    },
  };
  const entry = isRepeated(registry, tokens.ofVm(id), { enroller, registration, from })
    ? (await registry.replace(registration, options)).entry
    : await registry.register(registration, options).catch((error: unknown) => {
        throw explained(error, id);
      });
  born!.add();
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

/** An answer that was lost may be asked for again: in the same words, from the same place, and soon. */
function isRepeated(
  registry: Registry,
  known: Token | undefined,
  { enroller, registration, from }: Omit<Enrolment, 'write'>,
): boolean {
  if (!known || !registry.has(registration.id)) return false;
  const { bornOf, lastUsedAt, enrolledFrom, createdAt } = known.stored;
  const { vm } = registry.get(registration.id);
  return (
    bornOf === enroller.name &&
    lastUsedAt === undefined &&
    enrolledFrom === (from || undefined) &&
    registry.clock.now() - Date.parse(createdAt) < LOST_FOR &&
    Object.keys(diff(vm, { ...registration, registeredAt: vm.registeredAt })).length === 0
  );
}

function explained(error: unknown, id: string): unknown {
  if (!(error instanceof VregError) || error.code !== 'CONFLICT') return error;
  return new VregError('CONFLICT', error.message, {
    field: 'id',
    hint: `an enrol token is for new VMs: remove the old one (vreg rm ${id}), or give it a token of its own (vreg token create NAME --scope write --vm ${id})`,
  });
}
