/**
 * The screen of `ls --watch`: lines of text for the size of a terminal, and the effect of a key. Pure, except that the libraries
 * of tables are loaded on first use.
 */
import { vmsAnswer } from '../fleet/table.ts';
import type { Io } from '../io.ts';
import type { Sort, VmWithLiveness } from '../protocol/api.ts';
import { LIVENESS, type Liveness, livenessOf } from '../protocol/liveness.ts';
import { printable } from '../protocol/redact.ts';
import { comparison } from '../protocol/selector.ts';
import { ROLES } from '../protocol/vm.ts';
import { format, type RowsAnswer } from '../render.ts';

export interface ScreenSize {
  width: number;
  height: number;
}

/** The part of the state that keys change. */
export interface ScreenPosition {
  sort: Sort;
  reversed: boolean;
  /** Index of the first VM on the screen. */
  offset: number;
}

export interface ScreenContent {
  url: string;
  /** The error that broke the event stream; undefined while it is connected. */
  outage: string | undefined;
  /** Seconds for which the list may include dead VMs. */
  warming: number | undefined;
  heartbeatsPerSecond: number;
  /** In the order of the screen. */
  vms: readonly VmWithLiveness[];
  wide: boolean;
  /** Metadata keys that get a column each. */
  metaColumns?: readonly string[] | undefined;
  /** Milliseconds since the epoch, from which ages are computed. */
  now: number;
}

const SORT_KEYS: Readonly<Record<string, Sort>> = { i: 'id', n: 'name', r: 'role', s: 'seen', t: 'registered' };

/**
 * The effect of a key. The key of the current order reverses it.
 * @param page number of VMs on the screen
 * @param key name of a key as Node's readline reports it, `ctrl-c`, or `shift-g`
 */
export function onKey(position: ScreenPosition, key: string, page: number): ScreenPosition | 'quit' | 'interrupt' {
  const { sort, reversed, offset } = position;
  const chosen = Object.hasOwn(SORT_KEYS, key) ? SORT_KEYS[key] : undefined;
  if (chosen) return { sort: chosen, reversed: chosen === sort && !reversed, offset: 0 };
  const moved = (to: number) => ({ ...position, offset: Math.max(0, to) });
  switch (key) {
    case 'q':
      return 'quit';
    case 'ctrl-c':
      return 'interrupt';
    case 'up':
    case 'k':
      return moved(offset - 1);
    case 'down':
    case 'j':
      return moved(offset + 1);
    case 'pageup':
      return moved(offset - Math.max(page, 1));
    case 'pagedown':
    case 'space':
      return moved(offset + Math.max(page, 1));
    case 'home':
    case 'g':
      return moved(0);
    case 'end':
    case 'shift-g':
      return moved(Number.MAX_SAFE_INTEGER);
    default:
      return position;
  }
}

/** Sorts VMs. @param vms newest registration first */
export function sortVms(
  vms: readonly VmWithLiveness[],
  { sort, reversed }: Pick<ScreenPosition, 'sort' | 'reversed'>,
): readonly VmWithLiveness[] {
  const compare = comparison(sort);
  const sorted = compare ? vms.toSorted(compare) : vms;
  return reversed ? sorted.toReversed() : sorted;
}

/** Rows of the table of VMs below which the totals are reduced to one line. */
const MIN_ROWS = 6;
/** Rows of the table of VMs below which the totals are omitted. */
const MIN_ROWS_WITH_TOTALS = 3;
/** The lines that are always there: the state of the connection, the titles of the table, and the keys. */
const FIXED_LINES = 3;

/** How the lines of the screen are used. */
export interface ScreenPlan {
  totals: 'table' | 'line' | 'none';
  /** Number of VMs on the screen. */
  page: number;
}

/** @param roles number of roles with VMs */
export function planScreen(height: number, roles: number): ScreenPlan {
  // Titles, roles, their sum, and an empty line before and after.
  const table = height - FIXED_LINES - (1 + roles + (roles > 1 ? 1 : 0) + 2);
  if (roles > 0 && table >= MIN_ROWS) return { totals: 'table', page: table };
  const line = height - FIXED_LINES - 1;
  if (roles > 0 && line >= MIN_ROWS_WITH_TOTALS) return { totals: 'line', page: line };
  return { totals: 'none', page: Math.max(0, height - FIXED_LINES) };
}

/**
 * Draws the screen.
 * @returns at most `height` lines that are at most `width` columns wide, the VMs per page, and the offset that was possible
 */
export async function drawScreen(
  content: ScreenContent,
  position: ScreenPosition,
  { width, height }: ScreenSize,
  io: Io,
): Promise<{ lines: string[]; page: number; offset: number }> {
  const { vms, now, wide, metaColumns } = content;
  const totals = countTotals(vms);
  const plan = planScreen(height, totals.length);
  const offset = Math.min(position.offset, Math.max(0, vms.length - plan.page));
  const rows = vms.slice(offset, offset + plan.page);
  const draw = async <T>(answer: RowsAnswer<T>): Promise<string[]> => {
    const options = { format: wide ? 'wide' : 'table', headers: true, now } as const;
    return (await format({ ...io, tty: true, width }, answer, options)).trimEnd().split('\n');
  };
  const [status, line] = [statusLine(content), totals.map(totalsText).join('   ')];
  const keys = keysLine(position, offset, rows.length, vms.length);
  const { layoutFor } = await import('./layout.ts');
  const layout = await layoutFor([status, line, keys]);
  const lines = [layout.cutText(status, width)];
  if (plan.totals === 'table') {
    const sum = totals.length > 1 ? [sumOf(totals)] : [];
    lines.push('', ...(await draw(totalsTable([...totals, ...sum]))), '');
  } else if (plan.totals === 'line') {
    lines.push(layout.cutText(line, width));
  }
  if (vms.length === 0) lines.push('no VMs');
  else if (rows.length > 0) lines.push(...(await draw(vmsAnswer(rows, { metaColumns }))));
  const last = layout.cutText(keys, width);
  const shown = lines.slice(0, Math.max(1, height - 1));
  while (shown.length < height - 1) shown.push('');
  if (height > 1) shown.push(last);
  return { lines: shown, page: plan.page, offset };
}

function statusLine({ url, outage, warming, heartbeatsPerSecond, vms }: ScreenContent): string {
  if (outage !== undefined) return `disconnected, retrying: ${printable(outage)}`;
  const parts = [
    'connected',
    `${vms.length} ${vms.length === 1 ? 'VM' : 'VMs'}`,
    `${formatRate(heartbeatsPerSecond)} heartbeats/s`,
  ];
  if (warming !== undefined) parts.push(`may include dead VMs for ${warming} s`);
  return [...parts, printable(url)].join('   ');
}

function formatRate(rate: number): string {
  return rate < 10 ? rate.toFixed(1) : String(Math.round(rate));
}

function keysLine({ sort, reversed }: ScreenPosition, offset: number, shown: number, all: number): string {
  const keys = Object.entries(SORT_KEYS).map(([key, name]) => {
    if (name !== sort) return `${key} ${name}`;
    return reversed ? `[${key} ${name}, reversed]` : `[${key} ${name}]`;
  });
  const place = shown < all ? `${shown === 0 ? 0 : offset + 1}-${offset + shown} of ${all}   ` : '';
  return `q quit   ${place}sort: ${keys.join('  ')}`;
}

interface Totals {
  role: string;
  counts: Readonly<Record<Liveness, number>>;
}

/** The roles with VMs, in the usual order. A role that vreg does not know, from another registry, counts as `other`. */
function countTotals(vms: readonly VmWithLiveness[]): Totals[] {
  const counts = new Map<string, Record<Liveness, number>>();
  for (const vm of vms) {
    const role = ROLES.includes(vm.role) ? vm.role : 'other';
    const row = counts.get(role) ?? { live: 0, suspect: 0, stale: 0, paused: 0, stopped: 0 };
    counts.set(role, row);
    const liveness = livenessOf(vm);
    if (LIVENESS.includes(liveness)) row[liveness]++;
  }
  return [...ROLES, 'other'].flatMap((role) => (counts.has(role) ? [{ role, counts: counts.get(role)! }] : []));
}

function sumOf(totals: readonly Totals[]): Totals {
  const sum = (liveness: Liveness) => totals.reduce((total, { counts }) => total + counts[liveness], 0);
  return { role: 'all', counts: Object.fromEntries(LIVENESS.map((word) => [word, sum(word)])) as Totals['counts'] };
}

function totalsText({ role, counts }: Totals): string {
  const parts = LIVENESS.filter((liveness) => counts[liveness] > 0).map(
    (liveness) => `${counts[liveness]} ${liveness}`,
  );
  return `${role}: ${parts.join(', ') || '-'}`;
}

function totalsTable(rows: readonly Totals[]): RowsAnswer<Totals> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'ROLE', cell: ({ role }) => role },
      ...LIVENESS.map((liveness) => ({
        title: liveness.toUpperCase(),
        cell: ({ counts }: Totals) => counts[liveness],
      })),
    ],
    name: ({ role }) => role,
  };
}
