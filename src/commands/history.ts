import { defineCommand } from '../command.ts';
import { VregError } from '../protocol/errors.ts';
import type { FieldChanges } from '../protocol/events.ts';
import { naming } from '../run/batch.ts';

const DEFAULT_LIMIT = 100;
/** What the registry keeps. */
const MAX_LIMIT = 10_000;

export const history = defineCommand<{ limit?: string }>({
  name: 'history',
  summary: 'show who changed a VM, when, and what',
  description: `Shows the changes of a VM, newest first, also of one that was removed: when, who (the name of the token), and each field with its old and new value. Heartbeats are no changes. The registry keeps its last ${MAX_LIMIT} changes.`,
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  flags: [{ flags: '--limit <n>', about: `at most that many (default: ${DEFAULT_LIMIT})` }],
  examples: [
    { about: 'what happened to it?', command: 'vreg history abc-123-def' },
    { about: 'the last change', command: 'vreg history abc-123-def --limit 1' },
    { about: 'for a program', command: 'vreg history abc-123-def -o ndjson' },
  ],
  exits: [2, 3, 8],
  async run(context, [id], { limit = String(DEFAULT_LIMIT) }) {
    if (!/^[1-9]\d{0,4}$/.test(limit) || Number(limit) > MAX_LIMIT) {
      throw new VregError('USAGE', `--limit: "${limit}" is not possible`, {
        field: 'limit',
        hint: `a whole number from 1 to ${MAX_LIMIT}`,
      });
    }
    await context.print({
      kind: 'rows',
      rows: await naming(id!, context.client().history(id!, Number(limit))),
      columns: [
        { title: 'REVISION', cell: ({ revision }) => revision },
        { title: 'WHEN', cell: ({ at }) => ({ time: at }) },
        { title: 'WHAT', cell: ({ type }) => type },
        { title: 'WHO', cell: ({ by }) => by },
        { title: 'CHANGES', cell: ({ type, changes }) => describe(type, changes) },
      ],
      name: ({ revision }) => String(revision),
    });
  },
});

/** `name: one -> two`; of an entry that came or went, the fields that it had. */
function describe(type: string, changes: FieldChanges): string {
  const show = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));
  return Object.entries(changes)
    .filter(
      ([field]) =>
        type === 'updated' || type === 'status' || field === 'name' || field === 'role' || field === 'address',
    )
    .map(([field, [before, after]]) => {
      if (type === 'registered') return `${field}: ${show(after)}`;
      return type === 'deregistered' ? `${field}: ${show(before)}` : `${field}: ${show(before)} -> ${show(after)}`;
    })
    .join(', ');
}
