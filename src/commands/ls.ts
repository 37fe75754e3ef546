import { type Context, defineCommand } from '../command.ts';
import { parseCount } from '../config/values.ts';
import { META_COLUMNS_FLAG, STRICT_FLAG } from '../fleet/flags.ts';
import { stillWarming } from '../fleet/lookup.ts';
import { type Filters, filterOf, listVms, ROLE_FLAG, SELECTOR_FLAG, STALE_FLAG } from '../fleet/selection.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { SORTS, type Sort, type VmWithLiveness } from '../protocol/api.ts';
import { exclusiveFlags } from '../protocol/errors.ts';
import { STATUSES } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { repeatWithRetry } from '../run/retry.ts';

interface Flags extends Filters {
  sort?: Sort;
  limit?: string;
  metaColumns?: string[];
  strict?: boolean;
  watch?: boolean;
}

/** Milliseconds between two lists of `--watch` in a pipe: the default of watch(1). */
const WATCH_INTERVAL = 2000;

export const ls = defineCommand<Flags>({
  name: 'ls',
  aliases: ['list', 'ps'],
  summary: 'list VMs, newest registration first',
  description:
    'Lists VMs, newest registration first. STATUS is the declared status. LIVE shows whether a running VM has sent a heartbeat recently. --status running excludes stale VMs. An empty list is not an error. On a TTY, --watch shows a full screen until q is pressed: totals per role and state, heartbeats per second, and the VMs. The keys i, n, r, s and t sort by id, name, role, last seen and registration, or reverse that order; arrow and page keys scroll.',
  flags: [
    ROLE_FLAG,
    { flags: '--status <status>', about: 'only VMs with this status', values: STATUSES, list: true },
    STALE_FLAG,
    { flags: '--sort <by>', about: 'sort order (default: registered)', values: SORTS },
    SELECTOR_FLAG,
    { flags: '--limit <n>', about: 'maximum number of VMs' },
    META_COLUMNS_FLAG,
    STRICT_FLAG,
    {
      flags: '-w, --watch',
      about: 'keep running and show changes: a full screen on a TTY, otherwise changed rows',
    },
  ],
  examples: [
    { about: 'all VMs', command: 'vreg ls' },
    { about: 'ids of the stale workers', command: 'vreg ls --role worker --stale -q' },
    { about: 'the metadata keys task and env as columns', command: 'vreg ls -L task,env' },
    { about: 'filter by metadata, sort by name', command: 'vreg ls -l task=billing,env!=prod --sort name' },
    {
      about: 'names and addresses as TSV',
      command: "vreg ls -o json | jq -r '.[] | [.name, .address] | @tsv'",
    },
  ],
  exits: [2, 8, 10],
  async run(context, _args, flags) {
    if (!flags.watch) return context.print(await fetchList(context, flags));
    const isTable = context.format === 'table' || context.format === 'wide';
    const hasScreen = context.io.tty && context.env.TERM !== 'dumb';
    return isTable && hasScreen ? showLive(context, flags) : follow(context, flags);
  },
});

async function fetchList(
  context: Context,
  { sort, limit, strict, metaColumns, ...filters }: Flags,
): Promise<RowsAnswer<VmWithLiveness>> {
  const { stale, status } = filters;
  if (stale && status !== undefined && !status.includes('running')) {
    throw exclusiveFlags('--stale', `--status ${status}`, 'omit one of them: only running VMs become stale');
  }
  const max = limit === undefined ? undefined : parseCount(limit, '--limit');
  const client = context.client();
  const vms = await listVms(client, filters, { ...(sort && { sort }), ...(max && { limit: max }) });
  const { warming } = client.server;
  if (strict && warming !== undefined) throw stillWarming(warming, 'try again later, or omit --strict');
  return vmsAnswer(vms, { none: 'no VMs', metaColumns, now: client.server.now });
}

async function showLive(context: Context, { sort = 'registered', limit, ...flags }: Flags): Promise<void> {
  const { showLiveList } = await import('../run/live-list.ts');
  const { role = [], status, selector, stale, metaColumns } = flags;
  return showLiveList(context, {
    // The screen sorts and limits the list itself, because both depend on events.
    list: async () => (await fetchList(context, flags)).rows,
    isListed: filterOf({ role, ...(status && { status }), ...(selector && { selector }), ...(stale && { stale }) }),
    role: role.length === 1 ? role[0] : undefined,
    sort,
    metaColumns,
    limit: limit === undefined ? undefined : parseCount(limit, '--limit'),
  });
}

/** Prints each VM once, and again whenever it changes. Notes on stderr report VMs that are no longer listed. */
async function follow(context: Context, flags: Flags): Promise<void> {
  let known = new Map<string, string>();
  let begun = false;
  await repeatWithRetry(context, WATCH_INTERVAL, async () => {
    const answer = await fetchList(context, flags);
    const seen = new Map(answer.rows.map((vm) => [vm.id, JSON.stringify({ ...vm, lastSeen: undefined })]));
    const changed = answer.rows.filter((vm) => known.get(vm.id) !== seen.get(vm.id));
    if (changed.length > 0) {
      await context.print({ ...answer, rows: changed, continued: begun });
      begun = true;
    }
    for (const id of known.keys()) if (!seen.has(id)) context.note(`${id} is no longer listed`);
    known = seen;
  });
}
