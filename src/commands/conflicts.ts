import { defineCommand } from '../command.ts';
import { type Clone, findClone, withCloneIds } from '../fleet/clones.ts';
import { conflictForScripts } from '../protocol/events.ts';
import type { Claim, Conflict, OtherRegistry } from '../protocol/heartbeat.ts';
import { fieldForScripts, idFault } from '../protocol/vm.ts';

export const conflicts = defineCommand<{ clear?: boolean }>({
  name: 'conflicts',
  summary: 'show duplicate VMs (clones)',
  description:
    'Shows VMs for which two incarnations (running copies of one VM) sent heartbeats: a clone kept the id, or the VM was restored from an older snapshot. The registry accepts heartbeats from the incarnation in the HOLDER column and rejects those from the one in the OTHER column until the HOLDER has sent no heartbeat for one lease period (--stale-after of the daemon). The state other-registry means that agents reported responses from a second registry at the same URL, for example because a copy of the data dir is served elsewhere. COUNT is then the number of these agents, and HOLDER and OTHER show the latest position of each registry. LIVE is that of OTHER: live while its heartbeats are rejected, that of its own id once it has one, gone otherwise. A conflict stays on record until it is cleared. With ids, also shows the conflicts of their clones, but --clear clears only those of the ids; vreg tree ID --clones draws the clones. The exit code is 0 whether or not there are conflicts.',
  arguments: [{ name: 'id', about: 'ids of VMs (default: all)', optional: true, variadic: true, values: 'ids' }],
  flags: [{ flags: '--clear', about: 'clear the conflicts from the record' }],
  examples: [
    { about: 'all conflicts', command: 'vreg conflicts' },
    { about: 'the clones of a VM, live and past', command: 'vreg conflicts worker-1' },
    { about: 'fail if a conflict is open', command: 'vreg conflicts -o json | jq -e \'all(.state != "open")\'' },
    { about: 'clear a conflict that is resolved', command: 'vreg conflicts worker-1 --clear' },
  ],
  exits: [2, 6, 8],
  async run(context, ids, { clear }) {
    const client = context.client();
    const { conflicts: all, otherRegistry } = await client.conflicts();
    const shown = clear ? new Set(ids) : withCloneIds(ids, all);
    const found = ids.length === 0 ? all : all.filter(({ id }) => shown.has(id));
    // The claim names no VM, so it is not among ids for scripts.
    const isShown = otherRegistry && ids.length === 0 && context.format !== 'name';
    const rows: (Row | OtherRegistry)[] = isShown ? [otherRegistry] : [];
    for (const conflict of found) rows.push({ ...conflict, live: (await findClone(client, conflict)).live });
    if (clear) {
      if (ids.length === 0) await client.clearConflicts();
      for (const id of ids) await client.clearConflicts(id);
    }
    await context.print({
      kind: 'rows',
      rows,
      columns: [
        { title: 'ID', cell: (row) => (isConflict(row) ? row.id : '-') },
        { title: 'STATE', cell: (row) => (isConflict(row) ? stateOf(row) : OTHER_REGISTRY) },
        { title: 'COUNT', cell: (row) => (isConflict(row) ? row.count : row.vms) },
        { title: 'HOLDER', cell: (row) => (isConflict(row) ? claimOf(row.holder) : row.position) },
        { title: 'OTHER', cell: (row) => (isConflict(row) ? claimOf(row.other) : row.otherPosition) },
        { title: 'LIVE', cell: (row) => (isConflict(row) ? row.live : '-') },
        { title: 'LAST', cell: ({ lastAt }) => ({ time: lastAt }) },
      ],
      name: (row) => (isConflict(row) ? row.id : '-'),
      forScripts: (row) =>
        isConflict(row)
          ? { row: { ...conflictForScripts(row), live: row.live }, fault: faultOf(row) }
          : { row, fault: undefined },
      data: (row) => (isConflict(row) ? row : { state: OTHER_REGISTRY.text, ...row }),
      none: 'no conflicts',
    });
    if (clear && rows.length > 0) context.note(`cleared ${rows.length} conflict${rows.length === 1 ? '' : 's'}`);
  },
});

/** State of a row for another registry that answers at the same URL. */
const OTHER_REGISTRY = { text: 'other-registry', color: 'yellow' } as const;

/** A conflict, and whether the incarnation in the OTHER column is live. */
type Row = Conflict & Pick<Clone, 'live'>;

function isConflict(row: Row | OtherRegistry): row is Row {
  return 'holder' in row;
}

function stateOf({ state, rebornAs }: Conflict) {
  if (state === 'open') return { text: state, color: 'yellow' } as const;
  return rebornAs === undefined ? state : `${state} as ${rebornAs}`;
}

/** Both ids of a conflict may come from a hostile VM. */
function faultOf({ id, rebornAs }: Conflict) {
  return idFault(id) ?? (rebornAs === undefined ? undefined : idFault(rebornAs));
}

/** `10.0.0.1 from 192.0.2.1 (one)`: declared address, source address of the heartbeats, incarnation. */
function claimOf({ address = '-', from, incarnation }: Claim): string {
  return [fieldForScripts('address', address), from && `from ${from}`, incarnation && `(${incarnation})`]
    .filter(Boolean)
    .join(' ');
}
