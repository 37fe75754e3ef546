import { defineCommand } from '../command.ts';
import { changeSelected, SELECTION_ARGUMENT, SELECTION_FLAGS, type SelectionFlags } from '../fleet/selection.ts';

export const rm = defineCommand<SelectionFlags>({
  name: 'rm',
  aliases: ['deregister', 'delete'],
  summary: 'remove VMs from the registry',
  description:
    'Removes entries from the registry; the VMs themselves are not affected. Asks for confirmation unless --yes is given.',
  arguments: [SELECTION_ARGUMENT],
  flags: SELECTION_FLAGS,
  examples: [
    { about: 'ask, then remove a VM', command: 'vreg rm abc-123-def' },
    { about: 'in a script', command: 'vreg rm abc-123-def --yes' },
    { about: 'all stale VMs', command: 'vreg rm --stale --yes' },
  ],
  exits: [2, 3, 6, 7, 8],
  async run(context, ids, flags) {
    await changeSelected(context, ids, flags, {
      question: (vms) => `Remove ${vms} from the registry?`,
      asksForIds: true,
      change: async (id) => ({ id, ...(await context.client().deregister(id)) }),
      answerOf: (rows, more) => ({
        kind: 'rows',
        rows,
        columns: [
          { title: 'ID', cell: ({ id }) => id },
          { title: 'DELETED', cell: ({ deleted }) => String(deleted) },
        ],
        name: ({ id }) => id,
        ...more,
      }),
    });
  },
});
