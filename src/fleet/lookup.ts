/** The live VMs of a role, waited for when that is asked. */
import type { Context } from '../command.ts';
import { parseDuration } from '../config/values.ts';
import { suggestion } from '../help/suggest.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { isRole, ROLES, type Role } from '../protocol/vm.ts';
import { isPassing } from '../run/retry.ts';
import { noLiveVm } from './endpoint.ts';

/** Milliseconds between two requests while waiting: short for a person, and few requests for a registry. */
export const POLL_INTERVAL = 500;

export interface LiveFlags {
  service?: string;
  passing?: boolean;
  strict?: boolean;
  wait?: string;
}

/**
 * @returns live VMs, oldest registration first, at least one
 * @throws VregError NO_LIVE when there is none, TIMEOUT when none came within `--wait`, WARMING when `--strict` and the
 *   answer may name dead ones, USAGE on an unknown role
 */
export async function liveVms(
  context: Context,
  role: string,
  { service, passing, strict, wait }: LiveFlags,
): Promise<[VmWithLiveness, ...VmWithLiveness[]]> {
  requireRole(role);
  if (passing && service === undefined)
    throw new VregError('USAGE', '--passing requires --service', {
      field: 'passing',
      hint: 'name the service that must pass: --service NAME',
    });
  const patience = wait === undefined ? 0 : parseDuration(wait, '--wait');
  const started = context.now();
  let warming: number | undefined;
  const look = async (): Promise<VmWithLiveness[]> => {
    const client = context.client();
    const vms = await client.discover(role, { service, passing, strict });
    warming = strict ? client.server.warming : undefined;
    return warming === undefined ? vms : [];
  };
  for (;;) {
    const left = patience - (context.now() - started);
    const found = await (patience > 0 ? within(left, look()) : look()).catch((error: unknown) => {
      // A registry that is still starting is one of the things that scripts wait for.
      if (patience > 0 && isPassing(error) && context.now() - started < patience) return [];
      throw error;
    });
    if (found.length > 0) return found as [VmWithLiveness, ...VmWithLiveness[]];
    const rest = patience - (context.now() - started);
    if (rest <= 0 && warming !== undefined) throw stillWarming(warming);
    if (patience === 0) throw noLiveVm(role, service);
    if (rest <= 0)
      throw new VregError('TIMEOUT', `${noLiveVm(role, service).message} within ${wait}`, {
        hint: `list registered VMs: vreg ls --role ${role}`,
      });
    await context.sleep(Math.min(POLL_INTERVAL, rest));
  }
}

function stillWarming(seconds: number): VregError {
  return new VregError(
    'WARMING',
    `the registry is warming up: for ${seconds} s more, its answer may include dead VMs`,
    {
      hint: 'wait with --wait DURATION, or omit --strict',
    },
  );
}

/** What was found, or nothing when that takes longer: a registry that hangs is not waited for beyond what was asked. */
function within<T>(ms: number, found: Promise<T[]>): Promise<T[]> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve([]), Math.max(0, ms));
    found.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** @throws VregError USAGE listing the roles */
export function requireRole(role: string): Role {
  if (isRole(role)) return role;
  throw new VregError('USAGE', `invalid role "${role}"${suggestion(role, ROLES)}`, {
    field: 'role',
    hint: `one of: ${ROLES.join(', ')}`,
  });
}
