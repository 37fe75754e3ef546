/** Finds the live VMs with a role, and picks one of them, for `discover`, `addr`, `url`, `env` and `exec`. */
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import { parseDuration, splitList, withUnit } from '../config/values.ts';
import { suggestion } from '../help/suggest.ts';
import type { DiscoverQuery, VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { isRole, ROLES, type Role, type Vm } from '../protocol/vm.ts';
import { isTransient } from '../run/retry.ts';
import type { Pick } from './flags.ts';
import { listVms } from './selection.ts';
import { countStates, isOffered } from './table.ts';
import { noteFaults, separate } from './usable.ts';

/** Milliseconds between two requests while waiting: a short delay for a person, and little load for a registry. */
export const POLL_INTERVAL = 500;

/** Milliseconds to wait for the reasons why no VM is live: they only complete an error, so a slow registry must not delay it. */
const REASONS_TIMEOUT = 1000;

export interface LiveFlags {
  service?: string;
  passing?: boolean;
  strict?: boolean;
  wait?: string;
}

/**
 * Asks the registry for the live VMs with a role, or with one of several, separated by commas; with `wait`, polls until there is
 * one.
 * @returns at least one VM, oldest registration first
 * @throws VregError NO_LIVE if there is none, TIMEOUT if there was none within `wait`, the last error if the registry did not
 * answer within `wait`, WARMING if `strict` is set and the
 * answer may include dead VMs, USAGE for an unknown role, INVALID if scripts could use none of the VMs safely
 */
export async function liveVms(
  context: Context,
  role: string,
  { service, passing, strict, wait }: LiveFlags,
): Promise<[VmWithLiveness, ...VmWithLiveness[]]> {
  const roles = requireRoles([role]);
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
    const vms = await discoverRoles(client, roles, { service, passing, strict });
    warming = strict ? client.server.warming : undefined;
    const separated = separate(vms);
    faults = separated.faults;
    return warming === undefined ? separated.usable : [];
  };
  // The last transient error since the last answer.
  let trouble: VregError | undefined;
  let hasAnswered = false;
  for (;;) {
    const left = timeout - (context.now() - started);
    if (timeout > 0) context.client().maxTimeout = Math.max(1, left);
    const found = await discover()
      .then((vms) => {
        hasAnswered = true;
        trouble = undefined;
        return vms;
      })
      .catch((error: unknown): VmWithLiveness[] => {
        // The registry may still be starting.
        if (timeout === 0 || !isTransient(error)) throw error;
        // The end of the wait may have cut off this request, which says less about the registry than an earlier response.
        if (context.now() - started < timeout || !hasAnswered) trouble = error;
        return [];
      })
      .finally(() => {
        context.client().maxTimeout = Number.POSITIVE_INFINITY;
      });
    if (found.length > 0) {
      noteFaults(context, faults);
      return found as [VmWithLiveness, ...VmWithLiveness[]];
    }
    const rest = timeout - (context.now() - started);
    if (rest <= 0 && trouble !== undefined) throw trouble;
    if (rest <= 0 && warming !== undefined) throw stillWarming(warming);
    if (rest <= 0 && faults.length > 0) throw faults[0]!;
    if (timeout === 0 || rest <= 0) throw await noLiveVm(context, role, service, wait);
    await context.sleep(Math.min(POLL_INTERVAL, rest));
  }
}

/** The live VMs with one of the roles, possibly none. */
export async function discoverRoles(
  client: RegistryClient,
  roles: readonly Role[],
  query: DiscoverQuery = {},
): Promise<VmWithLiveness[]> {
  const lists = await Promise.all(roles.map((role) => client.discover(role, query)));
  return lists.length === 1 ? lists[0]! : lists.flat().sort(byPreference(query.service));
}

/** The order in which the registry lists the live VMs of one role: passing services first, then the oldest registration. */
function byPreference(service: string | undefined): (a: VmWithLiveness, b: VmWithLiveness) => number {
  const rank = ({ health = {} }: VmWithLiveness) =>
    service === undefined
      ? 0
      : ['passing', 'unknown', 'failing'].indexOf(Object.hasOwn(health, service) ? health[service]! : 'unknown');
  return (a, b) => rank(a) - rank(b) || Date.parse(a.registeredAt) - Date.parse(b.registeredAt);
}

/** @param hint the next step of the user */
export function stillWarming(seconds: number, hint = 'wait with --wait DURATION, or omit --strict'): VregError {
  return new VregError(
    'WARMING',
    `the registry is warming up: its answers may include dead VMs for another ${seconds} s`,
    { hint },
  );
}

/** Parses roles, each of which may be a comma-separated list. @throws VregError USAGE listing the roles */
export function requireRoles(texts: readonly string[]): Role[] {
  return [...new Set(texts.flatMap(splitList).map(requireRole))];
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

/**
 * Explains that no VM with the role is live, with the number of registered VMs and the reasons: `no live infra VM (4 registered: 3
 * stale, 1 paused)`. The reasons take one more request; they are omitted if it fails.
 * @param within the time that the user waited for a live VM
 */
export async function noLiveVm(context: Context, role: string, service?: string, within?: string): Promise<VregError> {
  const roles = splitList(role);
  const wanted = service === undefined ? '' : ` with the service "${service}"`;
  const waited = within === undefined ? '' : ` within ${withUnit(within)}`;
  const reasons = reasonsOf(await registeredVms(context, roles), service);
  return new VregError(
    within === undefined ? 'NO_LIVE' : 'TIMEOUT',
    `no live ${roles.join(' or ')} VM${wanted}${waited}${reasons}`,
    { hint: `list registered VMs: vreg ls --role ${role}` },
  );
}

/** All VMs with the roles, to explain an error; undefined if the registry does not list them in time. */
export async function registeredVms(
  context: Context,
  roles: readonly string[],
): Promise<readonly VmWithLiveness[] | undefined> {
  const client = context.client();
  client.maxTimeout = REASONS_TIMEOUT;
  const vms = await listVms(client, { role: roles })
    .catch(() => undefined)
    .finally(() => {
      client.maxTimeout = Number.POSITIVE_INFINITY;
    });
  context.signal.throwIfAborted();
  return vms;
}

/**
 * ` (4 registered: 3 stale, 1 paused)`; also how many live VMs lack the service. Empty if some are live and have it, because the
 * registry then had another reason not to return them, such as a failing check.
 */
function reasonsOf(vms: readonly VmWithLiveness[] | undefined, service: string | undefined): string {
  if (vms === undefined) return '';
  const offered = vms.filter(isOffered);
  if (offered.length === 0) return ` (${countStates(vms)})`;
  // Another registry may send anything as services.
  const lacking = offered.filter(
    ({ services }) => !(Array.isArray(services) && services.some((each) => each?.name === service)),
  ).length;
  if (service === undefined || lacking < offered.length) return '';
  return ` (${countStates(vms)}; ${lacking} live ${lacking === 1 ? 'VM lacks' : 'VMs lack'} the service)`;
}
