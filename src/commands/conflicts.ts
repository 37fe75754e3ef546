import { defineCommand } from '../command.ts';
import { normalizeAddress } from '../protocol/address.ts';
import type { Claim, Conflict } from '../protocol/heartbeat.ts';

export const conflicts = defineCommand<{ clear?: boolean }>({
  name: 'conflicts',
  summary: 'show duplicate VMs (clones)',
  description:
    'Shows VMs for which two incarnations sent heartbeats: a clone kept the id, or the VM was restored from an older snapshot. The registry accepts heartbeats from the incarnation in the HOLDER column and rejects those from the one in the OTHER column until the HOLDER has been silent for a lease. A conflict stays on record until it is cleared. The exit code is 0 whether or not there are conflicts.',
  arguments: [{ name: 'id', about: 'ids of VMs (default: all)', optional: true, variadic: true, values: 'ids' }],
  flags: [{ flags: '--clear', about: 'clear the conflicts from the record' }],
  examples: [
    { about: 'all conflicts', command: 'vreg conflicts' },
    { about: 'fail if a conflict is open', command: 'vreg conflicts -o json | jq -e \'all(.state != "open")\'' },
    { about: 'clear a conflict that is resolved', command: 'vreg conflicts worker-1 --clear' },
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
    if (clear && rows.length > 0) context.note(`cleared ${rows.length} conflict${rows.length === 1 ? '' : 's'}`);
  },
});

function stateOf({ state, rebornAs }: Conflict) {
  if (state === 'open') return { text: state, color: 'yellow' } as const;
  return rebornAs === undefined ? state : `${state} as ${rebornAs}`;
}

/** `10.0.0.1 from 192.0.2.1 (one)`: declared address, source address of the heartbeats, incarnation. */
function claimOf({ address = '-', from, incarnation }: Claim): string {
  return [normalizeAddress(address) ?? '-', from && `from ${from}`, incarnation && `(${incarnation})`]
    .filter(Boolean)
    .join(' ');
}
