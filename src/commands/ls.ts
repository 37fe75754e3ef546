import { type Context, defineCommand } from '../command.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES, STATUSES } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { livenessOf, vmsAnswer } from '../vm-answer.ts';

interface Flags {
  role?: string;
  status?: string;
  stale?: boolean;
  sort?: keyof typeof SORTS;
  watch?: boolean;
}

/** Milliseconds between two looks of `--watch`, as watch(1) has it. */
const WATCH_EVERY = 2000;

const SORTS = {
  registered: undefined,
  id: (a, b) => compare(a.id, b.id),
  name: (a, b) => compare(a.name, b.name),
  role: (a, b) => compare(a.role, b.role),
  seen: (a, b) => compare(b.lastSeen, a.lastSeen),
} satisfies Record<string, ((a: VmWithLiveness, b: VmWithLiveness) => number) | undefined>;

export const ls = defineCommand<Flags>({
  name: 'ls',
  aliases: ['list', 'ps'],
  summary: 'list VMs, newest registration first',
  description:
    'Lists VMs, newest registration first. STATUS is what was declared; LIVE says whether a running VM was heard of lately. `--status running` leaves stale VMs out. None is no error.',
  flags: [
    { flags: '--role <role>', about: 'only this role', values: ROLES },
    { flags: '--status <status>', about: 'only this status', values: STATUSES },
    { flags: '--stale', about: 'only running VMs that are stale' },
    { flags: '--sort <by>', about: 'order (default: registered)', values: Object.keys(SORTS) },
    { flags: '-w, --watch', about: 'stay, and show changes: a table that redraws on a TTY, else a row a change' },
  ],
  examples: [
    { about: 'the whole fleet', command: 'vreg ls' },
    { about: 'ids of the workers that went silent', command: 'vreg ls --role worker --stale -q' },
    {
      about: 'names and addresses, for another program',
      command: "vreg ls -o json | jq -r '.[] | [.name, .address] | @tsv'",
    },
  ],
  exits: [2, 8],
  async run(context, _args, flags) {
    if (!flags.watch) return context.print(await look(context, flags));
    return context.io.tty && context.format === 'table' ? redraw(context, flags) : follow(context, flags);
  },
});

async function look(
  context: Context,
  { role, status, stale, sort = 'registered' }: Flags,
): Promise<RowsAnswer<VmWithLiveness>> {
  if (stale && status !== undefined && status !== 'running') {
    throw new VregError('USAGE', `--stale and --status ${status} exclude each other: only a running VM goes stale`, {
      field: 'stale',
      hint: 'leave one of them out',
    });
  }
  // The server's `status=running` leaves out just those that `--stale` asks for.
  const vms = await context.client().list({ ...(role && { role }), ...(status && !stale && { status }) });
  const wanted = stale ? vms.filter((vm) => livenessOf(vm) === 'stale') : vms;
  const order = SORTS[sort];
  return vmsAnswer(order ? [...wanted].sort(order) : wanted, { none: 'no VMs' });
}

async function redraw(context: Context, flags: Flags): Promise<void> {
  for (;;) {
    const answer = await look(context, flags);
    context.io.out('\u001b[H\u001b[2J');
    await context.print(answer);
    await context.sleep(WATCH_EVERY);
  }
}

/** Prints each VM once, and again when it has changed; a VM that is no longer listed is told on stderr. */
async function follow(context: Context, flags: Flags): Promise<void> {
  let known = new Map<string, string>();
  let begun = false;
  for (;;) {
    const answer = await look(context, flags);
    const seen = new Map(answer.rows.map((vm) => [vm.id, JSON.stringify({ ...vm, lastSeen: undefined })]));
    const changed = answer.rows.filter((vm) => known.get(vm.id) !== seen.get(vm.id));
    if (changed.length > 0) {
      await context.print({ ...answer, rows: changed, continued: begun });
      begun = true;
    }
    for (const id of known.keys()) if (!seen.has(id)) context.note(`${id} is no longer listed`);
    known = seen;
    await context.sleep(WATCH_EVERY);
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
