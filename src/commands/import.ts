import { isDeepStrictEqual } from 'node:util';
import { type Context, defineCommand } from '../command.ts';
import { readEntries } from '../fleet/import-file.ts';
import { VregError } from '../protocol/errors.ts';
import type { Registration, Vm } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { each, throwFailed } from '../run/batch.ts';

interface Flags {
  file?: string;
  dryRun?: boolean;
  ifExists?: 'fail' | 'update' | 'ignore';
  yes?: boolean;
}

type Action = 'add' | 'change' | 'same' | 'skip' | 'conflict';

interface Plan {
  action: Action;
  entry: Registration;
  /** Fields that differ from the entry that is there. */
  fields: string[];
}

export const importVms = defineCommand<Flags>({
  name: 'import',
  summary: 'bring entries into the registry, from a file',
  description:
    "Brings entries into the registry, after saying what will change. The file is what vreg export wrote, an array of entries, or the original server's data/registry.json. An import is a sign of life: a running VM that is dead goes stale after one lease.",
  flags: [
    { flags: '-f, --file <file>', about: 'file, or - for stdin', file: true },
    {
      flags: '--if-exists <what>',
      about: 'when an id is taken with other fields (default: fail)',
      values: ['fail', 'update', 'ignore'],
    },
    { flags: '-n, --dry-run', about: 'print what would be done, and do nothing' },
    { flags: '-y, --yes', about: 'do not ask' },
  ],
  examples: [
    { about: 'what would it do?', command: 'vreg import -f fleet.ndjson --dry-run' },
    { about: 'the fleet of the original server', command: 'vreg import -f data/registry.json --yes' },
    { about: 'what is in the file wins', command: 'vreg import -f fleet.json --if-exists update --yes' },
  ],
  exits: [2, 4, 7, 8],
  async run(context, _args, { file, dryRun, ifExists = 'fail', yes }) {
    if (file === undefined)
      throw new VregError('USAGE', '--file is required', {
        field: 'file',
        hint: 'for example: vreg import -f fleet.ndjson',
      });
    const { entries } = await readEntries(context, file);
    refuseTwins(entries);
    const plans = planOf(entries, await context.client().list(), ifExists);
    if (dryRun) return context.print(planAnswer(plans));
    const conflicts = plans.filter(({ action }) => action === 'conflict');
    if (conflicts.length > 0) {
      const names = conflicts.slice(0, 3).map(({ entry, fields }) => `${entry.id} (${fields.join(', ')})`);
      throw new VregError(
        'CONFLICT',
        `${conflicts.length} of ${plans.length} are there already, and differ: ${names.join('; ')}`,
        {
          hint: 'nothing was changed; look with --dry-run, then choose --if-exists update or ignore',
        },
      );
    }
    const due = plans.filter(({ action }) => action === 'add' || action === 'change');
    const count = (wanted: Action) => plans.filter(({ action }) => action === wanted).length;
    if (due.length > 0)
      await context.confirm(`Add ${count('add')}, change ${count('change')} of ${plans.length} entries?`, yes);
    // One after the other: the order of registration is what `vreg addr` picks by.
    const { failed } = await each(context, due, ({ action, entry }) => write(context, action, entry), 1);
    const lost = new Set(failed.map(({ item }) => item));
    await context.print(planAnswer(plans.filter((plan) => !lost.has(plan))));
    throwFailed(context, due.length, failed, ({ entry }) => entry.id);
  },
});

async function write(context: Context, action: Action, entry: Registration): Promise<void> {
  if (action === 'add') {
    await context.client().register(entry);
    return;
  }
  const { id, role } = await context.client().registerOrUpdate(entry);
  if (role !== entry.role) context.note(`${id} keeps its role ${role}: this registry gives a role once`);
}

/** @throws VregError INVALID on an id that the file has twice */
function refuseTwins(entries: readonly Registration[]): void {
  const seen = new Set<string>();
  for (const [index, { id }] of entries.entries()) {
    if (seen.has(id)) {
      throw new VregError('INVALID', `entry ${index + 1}: the file has VM "${id}" twice`, {
        field: 'id',
        hint: 'nothing was changed; take one of them out',
      });
    }
    seen.add(id);
  }
}

function planOf(
  entries: readonly Registration[],
  there: readonly Vm[],
  ifExists: NonNullable<Flags['ifExists']>,
): Plan[] {
  const known = new Map(there.map((vm) => [vm.id, vm]));
  return entries.map((entry) => {
    const vm = known.get(entry.id);
    if (!vm) return { action: 'add', entry, fields: [] };
    const fields = differing(entry, vm);
    if (fields.length === 0) return { action: 'same', entry, fields };
    return { action: { fail: 'conflict', update: 'change', ignore: 'skip' }[ifExists] as Action, entry, fields };
  });
}

function differing(entry: Registration, vm: Vm): string[] {
  const fields = ['name', 'role', 'status', 'address', 'services', 'metadata', 'registeredBy'] as const;
  return fields.filter((field) => !isDeepStrictEqual(entry[field], vm[field]));
}

function planAnswer(plans: readonly Plan[]): RowsAnswer<Plan> {
  return {
    kind: 'rows',
    rows: plans,
    columns: [
      { title: 'ID', cell: ({ entry }) => entry.id },
      { title: 'ACTION', cell: ({ action }) => action },
      { title: 'FIELDS', cell: ({ fields }) => fields.join(',') || '-' },
    ],
    name: ({ entry }) => entry.id,
    data: ({ action, entry, fields }) => ({ id: entry.id, action, fields }),
    none: 'no entries in the file',
  };
}
