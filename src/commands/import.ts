import { isDeepStrictEqual } from 'node:util';
import { type Context, defineCommand } from '../command.ts';
import { readEntries } from '../fleet/import-file.ts';
import { IF_EXISTS, type IfExists, registerOrUpdate } from '../fleet/upsert.ts';
import type { ImportOutcome } from '../protocol/api.ts';
import { missingFlag, VregError } from '../protocol/errors.ts';
import { type ImportedVm, parseImported, type Registration, VM_FIELDS, type Vm } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { each, type Failed, throwFailed } from '../run/batch.ts';

interface Flags {
  file?: string;
  dryRun?: boolean;
  ifExists?: IfExists;
  yes?: boolean;
}

/**
 * Limits of one request. The daemon registers 1000 entries in less than a second, and accepts bodies of 1 MiB from slow clients.
 */
const CHUNK = { entries: 1000, bytes: 1_000_000 };

type Action = 'add' | 'change' | 'same' | 'skip' | 'conflict';

interface Plan {
  action: Action;
  entry: ImportedVm;
  /** Fields that differ from the registered entry. */
  fields: string[];
}

export const importVms = defineCommand<Flags>({
  name: 'import',
  summary: 'import entries from a file',
  description:
    'Imports entries from a file, after a confirmation that shows what will change. The file is the output of vreg export, an array of entries, or data/registry.json from vers-agent-services, the server that vreg replaces. New entries keep registeredAt and lastSeen, and an import does not count as a heartbeat, so a dead VM is stale at once. This requires a token with the scope admin. If the registry does not support it, as vers-agent-services, the entries are registered with new times.',
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
  exits: [2, 4, 6, 7, 8],
  async run(context, _args, { file, dryRun, ifExists = 'fail', yes }) {
    if (file === undefined) throw missingFlag('--file', 'for example: vreg import -f fleet.ndjson');
    const { entries } = await readEntries(context, file, undefined, parseImported);
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
    const failed = [
      ...(await add(
        context,
        pending.filter(({ action }) => action === 'add'),
      )),
      ...(await change(
        context,
        pending.filter(({ action }) => action === 'change'),
      )),
    ];
    const failedPlans = new Set(failed.map(({ item }) => item));
    await context.print(planAnswer(plans.filter((plan) => !failedPlans.has(plan))));
    throwFailed(context, pending.length, failed, ({ entry }) => entry.id);
  },
});

/** Registers entries with their times if the registry supports this. @returns the failures */
async function add(context: Context, plans: readonly Plan[]): Promise<Failed<Plan>[]> {
  const work = async (chunk: readonly Plan[]) => {
    const outcomes = await context.client().import(chunk.map(({ entry }) => entry));
    return outcomes.flatMap((outcome, index) => failureOf(chunk[index]!, outcome) ?? []);
  };
  const { done, failed } = await each(context, chunksOf(plans), work, 1);
  if (failed.some(({ error }) => error instanceof VregError && error.code === 'UNSUPPORTED'))
    return addWithNewTimes(context, plans);
  return [
    ...done.flat(),
    ...failed.flatMap(({ item, error }) => {
      const shared = isUnknown(error) ? unknownOutcome(item, error) : error;
      return item.map((plan) => ({ item: plan, error: shared }));
    }),
  ];
}

function isUnknown(error: unknown): error is VregError {
  return error instanceof VregError && error.code === 'OUTCOME_UNKNOWN';
}

/** The error of a request without a response. It names the entries, because several requests may fail in one import. */
function unknownOutcome(plans: readonly Plan[], cause: VregError): VregError {
  const [first, last] = [plans[0]!.entry.id, plans.at(-1)!.entry.id];
  const entries = plans.length === 1 ? `entry "${first}"` : `${plans.length} entries ("${first}" to "${last}")`;
  return new VregError('OUTCOME_UNKNOWN', `the outcome of ${entries} is unknown: ${cause.message}`, {
    hint: 'compare the file with the registry: vreg import --dry-run -f FILE',
    cause,
  });
}

/** Registers entries one at a time, because `vreg addr` picks VMs in the order of registration. @returns the failures */
async function addWithNewTimes(context: Context, plans: readonly Plan[]): Promise<Failed<Plan>[]> {
  if (plans.some(({ entry }) => entry.registeredAt !== undefined || entry.lastSeen !== undefined))
    context.note('this registry does not support imports, so registeredAt and lastSeen will be the current time');
  const client = context.client();
  return (await each(context, plans, ({ entry }) => client.register(withoutTimes(entry)), 1)).failed;
}

/** @returns the failures */
async function change(context: Context, plans: readonly Plan[]): Promise<Failed<Plan>[]> {
  return (await each(context, plans, ({ entry }) => registerOrUpdate(context, withoutTimes(entry)), 1)).failed;
}

function withoutTimes({ registeredAt: _registeredAt, lastSeen: _lastSeen, ...registration }: ImportedVm): Registration {
  return registration;
}

/** Divides the plans into requests, oldest registration first. Each has at least one entry. */
function chunksOf(plans: readonly Plan[]): Plan[][] {
  const chunks: Plan[][] = [];
  let size = 0;
  for (const plan of plans.toSorted((a, b) => compareTimes(a.entry.registeredAt, b.entry.registeredAt))) {
    const bytes = Buffer.byteLength(JSON.stringify(plan.entry));
    const last = chunks.at(-1);
    size += bytes;
    if (last && last.length < CHUNK.entries && size <= CHUNK.bytes) last.push(plan);
    else {
      chunks.push([plan]);
      size = bytes;
    }
  }
  return chunks;
}

/** An absent time comes last: it will be the time of the import. */
function compareTimes(a: string | undefined, b: string | undefined): number {
  if (a === b) return 0;
  if (a === undefined) return 1;
  return b === undefined || a < b ? -1 : 1;
}

function failureOf(item: Plan, { outcome, code = 'INVALID', error = outcome, field, hint }: ImportOutcome) {
  if (outcome === 'created') return undefined;
  const details = { ...(field === undefined ? {} : { field }), ...(hint === undefined ? {} : { hint }) };
  return { item, error: new VregError(code, error, details) };
}

/** @throws VregError INVALID if the file contains an id twice */
function rejectDuplicateIds(entries: readonly ImportedVm[]): void {
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

function planOf(entries: readonly ImportedVm[], registered: readonly Vm[], ifExists: IfExists): Plan[] {
  const known = new Map(registered.map((vm) => [vm.id, vm]));
  return entries.map((entry) => {
    const vm = known.get(entry.id);
    if (!vm) return { action: 'add', entry, fields: [] };
    const fields = differingFields(entry, vm);
    if (fields.length === 0) return { action: 'same', entry, fields };
    return { action: { fail: 'conflict', update: 'change', ignore: 'skip' }[ifExists] as Action, entry, fields };
  });
}

/** Fields that the registry assigns, or that identify the entry. */
const NOT_DECLARED: readonly string[] = ['id', 'registeredAt', 'lastSeen'];

function differingFields(entry: Registration, vm: Vm): string[] {
  const declared = VM_FIELDS.filter((field) => !NOT_DECLARED.includes(field)) as (keyof Registration)[];
  return declared.filter((field) => !isDeepStrictEqual(entry[field], vm[field]));
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
