/** The table of VMs that every command prints. */
import type { VmWithLiveness } from '../protocol/api.ts';
import { ageOf, LIVENESS, livenessOf, withoutLiveness } from '../protocol/liveness.ts';
import { entryFault, forScripts, type Vm } from '../protocol/vm.ts';
import { asText } from '../render/escape.ts';
import type { Cell, Column, RowsAnswer } from '../render.ts';

const NARROW_HEALTH: Column<VmWithLiveness> = { title: 'HEALTH', cell: ({ health }) => pairs(health, ':') };
const HEALTH: Column<VmWithLiveness> = { ...NARROW_HEALTH, wide: true };

/** Terminal columns of an id in the narrow table: as many as `docker ps` shows. `-o wide` and `-q` print whole ids. */
const SHORT_ID = 12;
/** The same with `-o wide`: those of a UUID. */
const WHOLE_ID = 36;
/** Terminal columns of an address: those of an IPv4 address. The hosts of a fleet differ at their start, so the end is cut. */
const SHORT_ADDRESS = 15;

/**
 * On a narrow terminal the name shrinks first, because a user needs the id, the status, the time, the address and the role, also
 * with `-o wide`. The liveness stays longer than the status: a dead VM may still be declared as running.
 */
const COLUMNS: readonly Column<VmWithLiveness>[] = [
  { title: 'ID', priority: 7, minimum: SHORT_ID, wideMinimum: WHOLE_ID, cut: 'middle', cell: ({ id }) => id },
  { title: 'NAME', priority: 1, cut: 'middle', cell: ({ name }) => name },
  { title: 'ROLE', priority: 3, cell: ({ role }) => role },
  { title: 'STATUS', priority: 5, cell: ({ status }) => status },
  { title: 'LIVE', priority: 6, cell: livenessCell },
  { title: 'ADDRESS', priority: 4, minimum: SHORT_ADDRESS, cell: ({ address }) => address },
  { title: 'LAST SEEN', priority: 5, cell: ({ lastSeen }) => ({ time: lastSeen }) },
  {
    title: 'SERVICES',
    wide: true,
    priority: 2,
    // Another registry may send anything as services.
    cell: ({ services }) =>
      (Array.isArray(services) ? services : []).map((service) => `${service?.name}:${service?.port}`).join(',') || '-',
  },
  { title: 'PARENT', wide: true, priority: 2, cut: 'middle', cell: ({ parentId }) => parentId },
  { title: 'METADATA', wide: true, priority: 2, cell: ({ metadata }) => pairs(metadata, '=') },
  { title: 'REGISTERED BY', wide: true, cell: ({ registeredBy }) => registeredBy },
  { title: 'REGISTERED', wide: true, cell: ({ registeredAt }) => ({ time: registeredAt }) },
  HEALTH,
];

interface VmsOptions extends Pick<RowsAnswer<Vm>, 'single' | 'none'> {
  /** Adds the column with the health of services to the narrow table. */
  showHealth?: boolean;
  /** Metadata keys that get a column each. */
  metaColumns?: readonly string[] | undefined;
  /**
   * Adds `live` ({@link livenessOf}) and `ageSeconds` ({@link ageOf}) to JSON output: milliseconds since the epoch, by the clock of
   * the registry. Commands that read VMs set it; after a change, the output is the entry alone.
   */
  now?: number;
}

/**
 * Converts VMs to rows. JSON output contains the entries as the API returns them.
 */
export function vmsAnswer(
  vms: readonly VmWithLiveness[],
  { showHealth = false, metaColumns = [], now, ...more }: VmsOptions = {},
): RowsAnswer<VmWithLiveness> {
  const columns = showHealth ? COLUMNS.map((column) => (column === HEALTH ? NARROW_HEALTH : column)) : COLUMNS;
  return {
    kind: 'rows',
    rows: vms,
    columns: [...columns, ...metaColumns.map(metaColumn)],
    name: ({ id }) => id,
    forScripts,
    data: (vm) => ({
      ...withoutLiveness(vm),
      ...(now === undefined ? {} : { live: livenessOf(vm), ageSeconds: ageOf(vm, now) }),
    }),
    ...more,
  };
}

/** True if `discover` returns this VM. */
export function isOffered(vm: VmWithLiveness): boolean {
  const liveness = livenessOf(vm);
  return (liveness === 'live' || liveness === 'suspect') && entryFault(vm) === undefined;
}

/** `4 registered: 3 stale, 1 paused`, or `none registered`. An entry that scripts could not use safely counts as invalid. */
export function countStates(vms: readonly VmWithLiveness[]): string {
  if (vms.length === 0) return 'none registered';
  const states = vms.map((vm) => (entryFault(vm) ? 'invalid' : livenessOf(vm)));
  const counts = [...LIVENESS, 'invalid']
    .map((state) => ({ state, count: states.filter((each) => each === state).length }))
    .filter(({ count }) => count > 0);
  return `${vms.length} registered: ${counts.map(({ state, count }) => `${count} ${state}`).join(', ')}`;
}

/** The liveness of a running VM; `-` for any other VM, whose status is in the column before. */
function livenessCell(vm: VmWithLiveness): Cell {
  const text = livenessOf(vm);
  if (text === vm.status) return { text: '-', color: 'gray' };
  return { text, color: text === 'live' ? 'green' : 'yellow' };
}

/** A column for one metadata key, which the user asked for, so only the liveness and the id shrink later. */
function metaColumn(key: string): Column<VmWithLiveness> {
  const cell = ({ metadata }: VmWithLiveness) => (Object.hasOwn(metadata ?? {}, key) ? asText(metadata![key]) : '-');
  return { title: key.toUpperCase(), priority: 6, cell };
}

/** `key=value,key=value`; `-` if there are none. */
function pairs(fields: Readonly<Record<string, unknown>> | undefined, separator: string): string {
  const entries = Object.entries(fields ?? {});
  return entries.map(([key, value]) => `${key}${separator}${asText(value)}`).join(',') || '-';
}
