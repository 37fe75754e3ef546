import { defineCommand } from '../command.ts';
import { parseCount } from '../config/values.ts';
import {
  changesForScripts,
  type FieldChanges,
  formatChanges,
  JOURNAL_LENGTH,
  nameOfChange,
} from '../protocol/events.ts';
import { naming } from '../run/batch.ts';

/** A few screens of a terminal. */
const DEFAULT_LIMIT = 100;

export const history = defineCommand<{ limit?: string }>({
  name: 'history',
  summary: 'show the changes to a VM: when, by whom, and what',
  description: `Shows the changes to a VM, newest first, even if the VM was removed: the time, the name of the token that made the change, and the old and new value of each field. Heartbeats are not changes. The registry retains the last ${JOURNAL_LENGTH} changes to all VMs.`,
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  flags: [{ flags: '--limit <n>', about: `maximum number of changes (default: ${DEFAULT_LIMIT})` }],
  examples: [
    { about: 'all changes', command: 'vreg history abc-123-def' },
    { about: 'the last change', command: 'vreg history abc-123-def --limit 1' },
    { about: 'as NDJSON', command: 'vreg history abc-123-def -o ndjson' },
  ],
  exits: [2, 3, 8],
  async run(context, [id], { limit = String(DEFAULT_LIMIT) }) {
    const max = parseCount(limit, '--limit', JOURNAL_LENGTH);
    await context.print({
      kind: 'rows',
      rows: await naming(id!, context.client().history(id!, max)),
      columns: [
        // On a terminal, the space is for the changes; TSV has the position, with which a script can resume.
        { title: 'POSITION', cell: nameOfChange, ...(context.io.tty && context.format !== 'tsv' && { wide: true }) },
        { title: 'WHEN', priority: 1, cell: ({ at }) => ({ time: at }) },
        { title: 'WHAT', priority: 2, cell: ({ type }) => type },
        { title: 'WHO', cell: ({ by }) => by },
        { title: 'CHANGES', priority: 3, cell: ({ type, changes }) => describe(type, changes) },
      ],
      name: nameOfChange,
      forScripts: (row) => ({ row: { ...row, changes: changesForScripts(row.changes) }, fault: undefined }),
    });
  },
});

/** `name: one -> two`; for a registration or removal, the main fields of the entry. */
function describe(type: string, changes: FieldChanges): string {
  if (type === 'updated' || type === 'status') return formatChanges(changes) || '-';
  return Object.entries(changes)
    .filter(([field]) => field === 'name' || field === 'role' || field === 'address')
    .map(([field, [before, after]]) => `${field}: ${type === 'registered' ? after : before}`)
    .join(', ');
}
