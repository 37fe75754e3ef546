/**
 * Selects VMs by id, role, metadata or staleness: the filters of `vreg ls`, and the VMs that `pause`, `resume`, `stop`, `rm` and
 * `update` change.
 */
import type { RegistryClient } from '../client.ts';
import type { Argument, Context, Flag } from '../command.ts';
import { formatNames } from '../config/values.ts';
import type { ListQuery, VmWithLiveness } from '../protocol/api.ts';
import { exclusiveFlags, VregError } from '../protocol/errors.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { parseSelector } from '../protocol/selector.ts';
import { ROLES } from '../protocol/vm.ts';
import type { Answer } from '../render.ts';
import { each, throwFailed } from '../run/batch.ts';

/** Maximum number of ids to list in a question. */
const MAX_LISTED = 3;

export const ROLE_FLAG: Flag = { flags: '--role <role>', about: 'only VMs with this role', values: ROLES, list: true };
export const SELECTOR_FLAG: Flag = {
  flags: '-l, --selector <terms>',
  about: 'only VMs whose metadata matches all comma-separated terms: key=value, key!=value, key, !key',
  repeat: true,
  values: 'selector',
};
export const STALE_FLAG: Flag = { flags: '--stale', about: 'only stale VMs' };
export const YES_FLAG: Flag = { flags: '-y, --yes', about: 'do not ask for confirmation' };

export interface Filters {
  role?: readonly string[];
  status?: readonly string[];
  selector?: readonly string[];
  stale?: boolean;
}

/** Lists the VMs that match all filters. The registry filters by one role and one status; other filters are applied here. */
export async function listVms(
  client: RegistryClient,
  { role = [], status = [], selector = [], stale }: Filters,
  { sort, limit }: Pick<ListQuery, 'sort' | 'limit'> = {},
): Promise<VmWithLiveness[]> {
  const terms = selector.filter((text) => text !== '').join(',');
  const query: ListQuery = {
    ...(role.length === 1 && { role: role[0]! }),
    // The status `running` excludes stale VMs, here as in the registry.
    ...(status.length === 1 && !stale && { status: status[0]! }),
    ...(terms !== '' && { selector: terms }),
    ...(sort && { sort }),
  };
  const isFilteredHere = stale || role.length > 1 || status.length > 1;
  const vms = await client.list({ ...query, ...(limit !== undefined && !isFilteredHere && { limit }) });
  if (!isFilteredHere) return vms;
  return vms.filter(filterOf({ role, status, ...(stale && { stale }) })).slice(0, limit);
}

/** @returns a function that tests whether a VM matches all filters @throws VregError INVALID for an invalid selector */
export function filterOf({ role = [], status = [], selector = [], stale }: Filters): (vm: VmWithLiveness) => boolean {
  const terms = selector.filter((text) => text !== '').map(parseSelector);
  return (vm) =>
    (role.length === 0 || role.includes(vm.role)) &&
    (status.length === 0 || status.includes(vm.status)) &&
    (stale ? livenessOf(vm) === 'stale' : status.length === 0 || livenessOf(vm) !== 'stale') &&
    terms.every((matches) => matches(vm));
}

export interface SelectionFlags extends Omit<Filters, 'status'> {
  all?: boolean;
  yes?: boolean;
}

export const SELECTION_ARGUMENT: Argument = {
  name: 'id',
  about: 'id of a VM; instead of ids, select VMs with flags',
  optional: true,
  variadic: true,
  values: 'ids',
};

export const SELECTION_FLAGS: readonly Flag[] = [
  ROLE_FLAG,
  SELECTOR_FLAG,
  STALE_FLAG,
  { flags: '--all', about: 'all VMs' },
  YES_FLAG,
];

interface Change<R, T> {
  /** The question to confirm the change. @param vms for example `VM a`, or `3 VMs (a, b, c)` */
  question(vms: string): string;
  /** Also ask if the VMs are named by their ids. */
  asksForIds?: true;
  change(id: string): Promise<R>;
  /** Converts the results. `single` is true if the user named one VM by its id. */
  answerOf(results: readonly R[], more: { single: boolean; none: string }): Answer<T>;
}

/**
 * Changes the selected VMs concurrently, and prints the results as one answer. Asks for confirmation if the VMs are selected by
 * flags. A VM that was selected because it is stale, but has sent a heartbeat since then, is not changed.
 * @throws VregError USAGE if nothing or both ids and flags select VMs, REFUSED if the change is not confirmed, or the error of a
 * failed change
 */
export async function changeSelected<R, T>(
  context: Context,
  ids: readonly string[],
  flags: SelectionFlags,
  { question, asksForIds, change, answerOf }: Change<R, T>,
): Promise<void> {
  const isByFlags = rejectAmbiguous(ids, flags);
  const given = [...new Set(ids)];
  const selected = isByFlags ? (await listVms(context.client(), flags)).map(({ id }) => id) : given;
  if (selected.length > 0 && (isByFlags || asksForIds)) {
    const listed = formatNames(selected, MAX_LISTED);
    const vms = selected.length === 1 ? `VM ${listed}` : `${selected.length} VMs (${listed})`;
    await context.confirm(question(vms), flags.yes);
  }
  const { done, failed } = await each(context, selected, async (id) =>
    flags.stale && !(await getIfStale(context, id)) ? [] : [await change(id)],
  );
  const results = done.flat();
  const single = !isByFlags && given.length === 1;
  if (results.length > 0 || failed.length === 0)
    await context.print(answerOf(results, { single, none: 'no VM matches' }));
  throwFailed(context, selected.length, failed, (id) => id);
}

/** @returns true if flags select the VMs, false if ids do */
function rejectAmbiguous(ids: readonly string[], flags: SelectionFlags): boolean {
  const filters = (['role', 'selector', 'stale'] as const).filter((name) => flags[name] !== undefined);
  const given = flags.all ? ['all', ...filters] : filters;
  if (ids.length > 0 && given.length > 0)
    throw exclusiveFlags(`--${given[0]}`, 'ids', 'pass either ids or flags that select VMs');
  if (flags.all && filters.length > 0)
    throw exclusiveFlags('--all', `--${filters[0]}`, 'omit --all to change only the VMs that match');
  if (ids.length === 0 && given.length === 0) {
    throw new VregError('USAGE', 'no VM given', {
      field: 'id',
      hint: 'pass ids, or select VMs with --role, --selector, --stale or --all',
    });
  }
  // An empty selector, for example from an unset shell variable, must not select all VMs.
  for (const text of flags.selector ?? []) parseSelector(text);
  return given.length > 0;
}

/**
 * Fetches a stale VM again before it is changed, because it may have sent a heartbeat in the meantime.
 * @returns undefined, after a note, if it is no longer stale
 */
export async function getIfStale(context: Context, id: string): Promise<VmWithLiveness | undefined> {
  const vm = await context.client().get(id);
  if (livenessOf(vm) === 'stale') return vm;
  context.note(`${id} is no longer stale and was not changed`);
  return undefined;
}
