/** The table of VMs that every command prints. */
import type { VmWithLiveness } from '../protocol/api.ts';
import { entryFault, forScripts, type Vm } from '../protocol/vm.ts';
import type { Cell, Column, RowsAnswer } from '../render.ts';

const NARROW_HEALTH: Column<VmWithLiveness> = {
  title: 'HEALTH',
  cell: ({ health = {} }) =>
    Object.entries(health)
      .map(([name, state]) => `${name}:${state}`)
      .join(',') || '-',
};
const HEALTH: Column<VmWithLiveness> = { ...NARROW_HEALTH, wide: true };

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
  HEALTH,
];

/**
 * Converts VMs to rows. JSON output contains the entries as the API returns them.
 * @param more `showHealth` adds the column with the health of services to the narrow table
 */
export function vmsAnswer(
  vms: readonly VmWithLiveness[],
  { showHealth = false, ...more }: Pick<RowsAnswer<Vm>, 'single' | 'none'> & { showHealth?: boolean } = {},
): RowsAnswer<VmWithLiveness> {
  const columns = showHealth ? COLUMNS.map((column) => (column === HEALTH ? NARROW_HEALTH : column)) : COLUMNS;
  return {
    kind: 'rows',
    rows: vms,
    columns,
    name: ({ id }) => id,
    forScripts,
    data: ({ stale: _stale, suspect: _suspect, health: _health, ...vm }) => vm,
    ...more,
  };
}

/** The liveness of a VM; `-` if its status is paused or stopped. */
export function livenessOf({ status, stale, suspect }: VmWithLiveness): 'live' | 'suspect' | 'stale' | '-' {
  if (status !== 'running') return '-';
  if (stale) return 'stale';
  return suspect ? 'suspect' : 'live';
}

/** True if `discover` returns this VM. */
export function isOffered(vm: VmWithLiveness): boolean {
  const liveness = livenessOf(vm);
  return (liveness === 'live' || liveness === 'suspect') && entryFault(vm) === undefined;
}

function livenessCell(vm: VmWithLiveness): Cell {
  const text = livenessOf(vm);
  return { text, color: text === 'live' ? 'green' : text === '-' ? 'gray' : 'yellow' };
}
