import { defineCommand } from '../command.ts';
import { each, throwFailed } from '../run/batch.ts';

/** Ids that a question names before it says "and N more". */
const NAMED = 3;

export const rm = defineCommand<{ yes?: boolean }>({
  name: 'rm',
  aliases: ['deregister', 'delete'],
  summary: 'remove VMs from the registry',
  description: 'Removes VMs from the registry; the VMs themselves are not touched. Asks first; a script says --yes.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  flags: [{ flags: '-y, --yes', about: 'do not ask' }],
  examples: [
    { about: 'after a question', command: 'vreg rm abc-123-def' },
    { about: 'in a script', command: 'vreg rm abc-123-def --yes' },
    { about: 'all that went silent', command: 'vreg ls --stale -q | xargs --no-run-if-empty vreg rm --yes' },
  ],
  exits: [2, 3, 7, 8],
  async run(context, ids, { yes }) {
    const named = ids.slice(0, NAMED).join(', ') + (ids.length > NAMED ? ` and ${ids.length - NAMED} more` : '');
    await context.confirm(
      `Remove ${ids.length === 1 ? `VM ${named}` : `${ids.length} VMs (${named})`} from the registry?`,
      yes,
    );
    const { done, failed } = await each(context, ids, async (id) => ({
      id,
      ...(await context.client().deregister(id)),
    }));
    if (done.length > 0) {
      await context.print({
        kind: 'rows',
        rows: done,
        columns: [
          { title: 'ID', cell: ({ id }) => id },
          { title: 'DELETED', cell: ({ deleted }) => String(deleted) },
        ],
        name: ({ id }) => id,
        single: ids.length === 1,
      });
    }
    throwFailed(context, ids.length, failed, (id) => id);
  },
});
