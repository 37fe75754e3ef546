/** Finds the live VMs with a role, and picks one of them, for `discover`, `addr`, `url`, `env` and `exec`. */
import type { Context } from '../command.ts';
import { parseDuration } from '../config/values.ts';
import { suggestion } from '../help/suggest.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { isRole, ROLES, type Role, type Vm } from '../protocol/vm.ts';
import { isTransient } from '../run/retry.ts';
import type { Pick } from './flags.ts';
import { noteFaults, separate } from './usable.ts';

/** Milliseconds between two requests while waiting: a short delay for a person, and little load for a registry. */
export const POLL_INTERVAL = 500;

export interface LiveFlags {
  service?: string;
  passing?: boolean;
  strict?: boolean;
  wait?: string;
}

/**
 * Asks the registry for the live VMs with a role; with `wait`, polls until there is one.
 * @returns at least one VM, oldest registration first
 * @throws VregError NO_LIVE if there is none, TIMEOUT if there was none within `wait`, WARMING if `strict` is set and the
 * answer may include dead VMs, USAGE for an unknown role, INVALID if scripts could use none of the VMs safely
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
      hint: 'pass the name of the service that must be healthy: --service NAME',
    });
  const timeout = wait === undefined ? 0 : parseDuration(wait, '--wait');
  const started = context.now();
  let warming: number | undefined;
  let faults: readonly VregError[] = [];
  const discover = async (): Promise<VmWithLiveness[]> => {
    const client = context.client();
    const vms = await client.discover(role, { service, passing, strict });
    warming = strict ? client.server.warming : undefined;
    const separated = separate(vms);
    faults = separated.faults;
    return warming === undefined ? separated.usable : [];
  };
  for (;;) {
    const left = timeout - (context.now() - started);
    const found = await (timeout > 0 ? emptyAfter(left, discover()) : discover()).catch((error: unknown) => {
      // The registry may still be starting.
      if (timeout > 0 && isTransient(error) && context.now() - started < timeout) return [];
      throw error;
    });
    if (found.length > 0) {
      noteFaults(context, faults);
      return found as [VmWithLiveness, ...VmWithLiveness[]];
    }
    const rest = timeout - (context.now() - started);
    if (rest <= 0 && warming !== undefined) throw stillWarming(warming);
    if (rest <= 0 && faults.length > 0) throw faults[0]!;
    if (timeout === 0) throw noLiveVm(role, service);
    if (rest <= 0)
      throw new VregError('TIMEOUT', `${noLiveVm(role, service).message} within ${wait}`, {
        hint: `list registered VMs: vreg ls --role ${role}`,
      });
    await context.sleep(Math.min(POLL_INTERVAL, rest));
  }
}

/** @param hint the next step of the user */
export function stillWarming(seconds: number, hint = 'wait with --wait DURATION, or omit --strict'): VregError {
  return new VregError(
    'WARMING',
    `the registry has just started: its answers may include dead VMs for another ${seconds} s`,
    { hint },
  );
}

/**
 * Resolves to an empty list after `ms` milliseconds, so that a request to a hanging registry does not outlast the user's
 * timeout.
 */
function emptyAfter<T>(ms: number, found: Promise<T[]>): Promise<T[]> {
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

export interface PickFlags {
  pick?: Pick;
  service?: string;
}

/**
 * Picks one of several live VMs.
 * @param vms in the registry's order, not empty: oldest registration first; with a service, the VMs that pass its checks first
 */
export function pickOne(
  vms: readonly VmWithLiveness[],
  { pick = 'first', service }: PickFlags,
  random: () => number = Math.random,
): Vm {
  if (service !== undefined) {
    // The registry returns VMs with a passing service first: pick only among the VMs with the best health.
    const best = vms[0]!.health?.[service];
    return pickOne(
      vms.filter(({ health }) => health?.[service] === best),
      { pick },
      random,
    );
  }
  if (pick === 'newest') return vms.at(-1)!;
  return vms[pick === 'random' ? Math.floor(random() * vms.length) : 0]!;
}

export function noLiveVm(role: string, service?: string): VregError {
  return new VregError(
    'NO_LIVE',
    `no live ${role} VM${service === undefined ? '' : ` with the service "${service}"`}`,
    {
      hint: `list registered VMs: vreg ls --role ${role}`,
    },
  );
}
