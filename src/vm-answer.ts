/** VMs as answers: the one table of entries that every command prints. */
import type { VmWithLiveness } from './protocol/api.ts';
import type { Vm } from './protocol/vm.ts';
import type { Cell, Column, RowsAnswer } from './render.ts';

const COLUMNS: readonly Column<VmWithLiveness>[] = [
  { title: 'ID', cell: ({ id }) => id },
  { title: 'NAME', cell: ({ name }) => name },
  { title: 'ROLE', cell: ({ role }) => role },
  { title: 'STATUS', cell: ({ status }) => status },
  { title: 'LIVE', cell: livenessCell },
  { title: 'ADDRESS', cell: ({ address }) => address },
  { title: 'LAST SEEN', cell: ({ lastSeen }) => ({ time: lastSeen }) },
  {
    title: 'SERVICES',
    wide: true,
    cell: ({ services = [] }) => services.map(({ name, port }) => `${name}:${port}`).join(',') || '-',
  },
  { title: 'REGISTERED BY', wide: true, cell: ({ registeredBy }) => registeredBy },
  { title: 'REGISTERED', wide: true, cell: ({ registeredAt }) => ({ time: registeredAt }) },
];

/** Entries, with a table of what an operator wants to see of them. JSON is the plain entry, as the wire has it. */
export function vmsAnswer(
  vms: readonly VmWithLiveness[],
  more: Pick<RowsAnswer<Vm>, 'single' | 'none'> = {},
): RowsAnswer<VmWithLiveness> {
  return {
    kind: 'rows',
    rows: vms,
    columns: COLUMNS,
    name: ({ id }) => id,
    data: ({ stale: _stale, ...vm }) => vm,
    ...more,
  };
}

/** `live`, `stale`, or `-` for a VM that was declared paused or stopped. */
export function livenessOf({ status, stale }: VmWithLiveness): 'live' | 'stale' | '-' {
  if (status !== 'running') return '-';
  return stale ? 'stale' : 'live';
}

function livenessCell(vm: VmWithLiveness): Cell {
  const text = livenessOf(vm);
  return { text, color: text === 'live' ? 'green' : text === 'stale' ? 'yellow' : 'gray' };
}
