import { defineCommand } from '../command.ts';
import type { Claim, Conflict } from '../protocol/heartbeat.ts';

export const conflicts = defineCommand<{ clear?: boolean }>({
  name: 'conflicts',
  summary: 'show VMs of which two incarnations were heard',
  description:
    'Shows where two agents said that they are the same VM: a clone that was not told so, or a VM that was rewound. The HOLDER is the one whose beats are taken, the OTHER was refused. A conflict stays on record until it is cleared. None is no error.',
  arguments: [{ name: 'id', about: 'only of these VMs (default: all)', optional: true, variadic: true, values: 'ids' }],
  flags: [{ flags: '--clear', about: 'forget them, once they are dealt with' }],
  examples: [
    { about: 'is any VM there twice?', command: 'vreg conflicts' },
    { about: 'for a script', command: 'vreg conflicts -o json | jq -e \'all(.state != "open")\'' },
    { about: 'worker-1 is dealt with', command: 'vreg conflicts worker-1 --clear' },
  ],
  exits: [2, 8],
  async run(context, ids, { clear }) {
    const client = context.client();
    const all = await client.conflicts();
    const rows = ids.length === 0 ? all : all.filter(({ id }) => ids.includes(id));
    if (clear) {
      if (ids.length === 0) await client.clearConflicts();
      for (const id of ids) await client.clearConflicts(id);
    }
    await context.print({
      kind: 'rows',
      rows,
      columns: [
        { title: 'ID', cell: ({ id }) => id },
        { title: 'STATE', cell: stateOf },
        { title: 'COUNT', cell: ({ count }) => count },
        { title: 'HOLDER', cell: ({ holder }) => claimOf(holder) },
        { title: 'OTHER', cell: ({ other }) => claimOf(other) },
        { title: 'LAST', cell: ({ lastAt }) => ({ time: lastAt }) },
      ],
      name: ({ id }) => id,
      none: 'no conflicts',
    });
    if (clear && rows.length > 0) context.note(`forgot ${rows.length === 1 ? 'this one' : `these ${rows.length}`}`);
  },
});

function stateOf({ state, rebornAs }: Conflict) {
  if (state === 'open') return { text: state, color: 'yellow' } as const;
  return rebornAs === undefined ? state : `${state} as ${rebornAs}`;
}

/** The address that it says it has, where its beats come from, and the name of its incarnation. */
function claimOf({ address = '-', from, incarnation }: Claim): string {
  return [address, from && `from ${from}`, incarnation && `(${incarnation})`].filter(Boolean).join(' ');
}
