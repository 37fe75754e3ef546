import { defineCommand } from '../command.ts';
import { formatNames } from '../config/values.ts';
import { printEach } from '../run/batch.ts';

/** Maximum number of ids to list in the prompt. */
const MAX_LISTED = 3;

export const rm = defineCommand<{ yes?: boolean }>({
  name: 'rm',
  aliases: ['deregister', 'delete'],
  summary: 'remove VMs from the registry',
  description:
    'Removes entries from the registry; the VMs themselves are not affected. Asks for confirmation unless --yes is given.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  flags: [{ flags: '-y, --yes', about: 'do not ask for confirmation' }],
  examples: [
    { about: 'ask, then remove a VM', command: 'vreg rm abc-123-def' },
    { about: 'in a script', command: 'vreg rm abc-123-def --yes' },
    { about: 'all stale VMs', command: 'vreg ls --stale -q | xargs --no-run-if-empty vreg rm --yes' },
  ],
  exits: [2, 3, 7, 8],
  async run(context, ids, { yes }) {
    const listed = formatNames(ids, MAX_LISTED);
    await context.confirm(
      `Remove ${ids.length === 1 ? `VM ${listed}` : `${ids.length} VMs (${listed})`} from the registry?`,
      yes,
    );
    await printEach(
      context,
      ids,
      async (id) => ({ id, ...(await context.client().deregister(id)) }),
      (rows) => ({
        kind: 'rows',
        rows,
        columns: [
          { title: 'ID', cell: ({ id }) => id },
          { title: 'DELETED', cell: ({ deleted }) => String(deleted) },
        ],
        name: ({ id }) => id,
        single: ids.length === 1,
      }),
    );
  },
});
