import { type Context, defineCommand } from '../command.ts';
import { livenessOf, vmsAnswer } from '../fleet/table.ts';
import { SORTS, type Sort, type VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES, STATUSES } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { outlast } from '../run/retry.ts';

interface Flags {
  role?: string;
  status?: string;
  stale?: boolean;
  selector?: string;
  sort?: Sort;
  limit?: string;
  watch?: boolean;
}

/** Milliseconds between two looks of `--watch`, as watch(1) has it. */
const WATCH_EVERY = 2000;

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
    { flags: '--sort <by>', about: 'order (default: registered)', values: SORTS },
    {
      flags: '-l, --selector <terms>',
      about: 'only VMs whose metadata fits: key=value, key!=value, key, !key, joined by commas',
    },
    { flags: '--limit <n>', about: 'at most that many' },
    { flags: '-w, --watch', about: 'stay, and show changes: a table that redraws on a TTY, else a row a change' },
  ],
  examples: [
    { about: 'the whole fleet', command: 'vreg ls' },
    { about: 'ids of the workers that went silent', command: 'vreg ls --role worker --stale -q' },
    { about: 'by metadata', command: 'vreg ls -l task=billing,env!=prod --sort name' },
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
  { role, status, stale, selector, sort, limit }: Flags,
): Promise<RowsAnswer<VmWithLiveness>> {
  if (stale && status !== undefined && status !== 'running') {
    throw new VregError('USAGE', `--stale and --status ${status} exclude each other: only a running VM goes stale`, {
      field: 'stale',
      hint: 'leave one of them out',
    });
  }
  const most = limit === undefined ? undefined : parseLimit(limit);
  // The server's `status=running` leaves out just those that `--stale` asks for, and its limit would come before that.
  const query = { ...(role && { role }), ...(selector && { selector }), ...(sort && { sort }) };
  const narrow = stale ? {} : { ...(status && { status }), ...(most && { limit: most }) };
  const vms = await context.client().list({ ...query, ...narrow });
  const wanted = stale ? vms.filter((vm) => livenessOf(vm) === 'stale').slice(0, most) : vms;
  return vmsAnswer(wanted, { none: 'no VMs' });
}

function parseLimit(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new VregError('USAGE', `--limit: "${text}" is not possible`, {
    field: 'limit',
    hint: 'a whole number, 1 or more',
  });
}

async function redraw(context: Context, flags: Flags): Promise<void> {
  await outlast(context, WATCH_EVERY, async () => {
    const answer = await look(context, flags);
    const lines = (await context.text(answer)).trimEnd().split('\n');
    const room = context.io.height - 1;
    const shown = lines.length > room ? [...lines.slice(0, room - 1), `and ${lines.length - room + 1} more`] : lines;
    // Each line over the one that was there, then the rest is cleared: nothing flickers.
    context.io.out(`\u001b[H${shown.map((line) => `${line}\u001b[K\n`).join('')}\u001b[J`);
  });
}

/** Prints each VM once, and again when it has changed; a VM that is no longer listed is told on stderr. */
async function follow(context: Context, flags: Flags): Promise<void> {
  let known = new Map<string, string>();
  let begun = false;
  await outlast(context, WATCH_EVERY, async () => {
    const answer = await look(context, flags);
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
