import { isDeepStrictEqual } from 'node:util';
import { type Context, defineCommand } from '../command.ts';
import { readEntries } from '../fleet/import-file.ts';
import { IF_EXISTS, type IfExists, registerOrUpdate } from '../fleet/upsert.ts';
import { missingFlag, VregError } from '../protocol/errors.ts';
import type { Registration, Vm } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { each, throwFailed } from '../run/batch.ts';

interface Flags {
  file?: string;
  dryRun?: boolean;
  ifExists?: IfExists;
  yes?: boolean;
}

type Action = 'add' | 'change' | 'same' | 'skip' | 'conflict';

interface Plan {
  action: Action;
  entry: Registration;
  /** Fields that differ from the registered entry. */
  fields: string[];
}

export const importVms = defineCommand<Flags>({
  name: 'import',
  summary: 'import entries from a file',
  description:
    'Imports entries from a file, after a confirmation that shows what will change. The file is the output of vreg export, an array of entries, or data/registry.json from vers-agent-services, the server that vreg replaces. An import counts as a heartbeat, so a dead VM with the status running becomes stale after one lease.',
  flags: [
    { flags: '-f, --file <file>', about: 'file to read, or - for stdin', file: true },
    {
      flags: '--if-exists <what>',
      about: 'what to do if an id is already registered with different values (default: fail)',
      values: IF_EXISTS,
    },
    { flags: '-n, --dry-run', about: 'print what would change, and change nothing' },
    { flags: '-y, --yes', about: 'do not ask for confirmation' },
  ],
  examples: [
    { about: 'preview an import', command: 'vreg import -f fleet.ndjson --dry-run' },
    { about: 'import the fleet from vers-agent-services', command: 'vreg import -f data/registry.json --yes' },
    { about: 'overwrite registered entries', command: 'vreg import -f fleet.json --if-exists update --yes' },
  ],
  exits: [2, 4, 7, 8],
  async run(context, _args, { file, dryRun, ifExists = 'fail', yes }) {
    if (file === undefined) throw missingFlag('--file', 'for example: vreg import -f fleet.ndjson');
    const { entries } = await readEntries(context, file);
    rejectDuplicateIds(entries);
    const plans = planOf(entries, await context.client().list(), ifExists);
    if (dryRun) return context.print(planAnswer(plans));
    const conflicts = plans.filter(({ action }) => action === 'conflict');
    if (conflicts.length > 0) {
      const names = conflicts.slice(0, 3).map(({ entry, fields }) => `${entry.id} (${fields.join(', ')})`);
      throw new VregError(
        'CONFLICT',
        `${conflicts.length} of ${plans.length} entries are already registered with different values: ${names.join('; ')}`,
        {
          hint: 'nothing was changed; preview with --dry-run, then pass --if-exists update or ignore',
        },
      );
    }
    const pending = plans.filter(({ action }) => action === 'add' || action === 'change');
    const count = (wanted: Action) => plans.filter(({ action }) => action === wanted).length;
    if (pending.length > 0)
      await context.confirm(`Add ${count('add')}, change ${count('change')} of ${plans.length} entries?`, yes);
    // One at a time, because `vreg addr` picks VMs in the order of registration.
    const { failed } = await each(context, pending, ({ action, entry }) => write(context, action, entry), 1);
    const failedPlans = new Set(failed.map(({ item }) => item));
    await context.print(planAnswer(plans.filter((plan) => !failedPlans.has(plan))));
    throwFailed(context, pending.length, failed, ({ entry }) => entry.id);
  },
});

async function write(context: Context, action: Action, entry: Registration): Promise<void> {
  if (action === 'add') {
    await context.client().register(entry);
    return;
  }
  await registerOrUpdate(context, entry);
}

/** @throws VregError INVALID if the file contains an id twice */
function rejectDuplicateIds(entries: readonly Registration[]): void {
  const seen = new Set<string>();
  for (const [index, { id }] of entries.entries()) {
    if (seen.has(id)) {
      throw new VregError('INVALID', `entry ${index + 1}: duplicate id "${id}"`, {
        field: 'id',
        hint: 'nothing was changed; remove one of the two entries',
      });
    }
    seen.add(id);
  }
}

function planOf(entries: readonly Registration[], registered: readonly Vm[], ifExists: IfExists): Plan[] {
  const known = new Map(registered.map((vm) => [vm.id, vm]));
  return entries.map((entry) => {
    const vm = known.get(entry.id);
    if (!vm) return { action: 'add', entry, fields: [] };
    const fields = differingFields(entry, vm);
    if (fields.length === 0) return { action: 'same', entry, fields };
    return { action: { fail: 'conflict', update: 'change', ignore: 'skip' }[ifExists] as Action, entry, fields };
  });
}

function differingFields(entry: Registration, vm: Vm): string[] {
  const fields = [
    'name',
    'role',
    'status',
    'address',
    'services',
    'metadata',
    'parentId',
    'parentVmId',
    'reefConfig',
    'registeredBy',
  ] as const;
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
