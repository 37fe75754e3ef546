/** Prints lines as a table, or as JSON. */
import { cpuRatioOf, type Line, ratioOf } from './row.ts';

/** A line, with the size of the fleet if it depends on it. */
export interface Result extends Line {
  vms?: number | undefined;
}

/** A row that could not be measured. */
export interface Failure {
  name: string;
  vms?: number | undefined;
  error: string;
}

interface Column {
  title: string;
  width: number;
  cell(result: Result): string;
}

const COLUMNS: readonly Column[] = [
  { title: 'vms', width: 9, cell: ({ vms }) => (vms === undefined ? '' : String(vms)) },
  { title: 'unit', width: 5, cell: ({ unit }) => unit },
  { title: 'vreg', width: 9, cell: ({ vreg }) => figure(vreg) },
  { title: 'floor', width: 9, cell: ({ floor }) => figure(floor) },
  { title: 'ratio', width: 7, cell: (line) => ratioOf(line)?.toFixed(2) ?? '' },
  { title: 'CPU µs', width: 9, cell: ({ cpu }) => figure(cpu?.vreg) },
  { title: 'floor', width: 9, cell: ({ cpu }) => figure(cpu?.floor) },
  { title: 'ratio', width: 7, cell: (line) => cpuRatioOf(line)?.toFixed(2) ?? '' },
  { title: 'goal', width: 11, cell: ({ goal }) => goal ?? '' },
];
const PEER_COLUMNS: readonly Column[] = [
  { title: 'peer', width: 9, cell: ({ peer }) => figure(peer) },
  { title: 'ratio', width: 7, cell: ({ peer, floor }) => (peer && floor ? (peer / floor).toFixed(2) : '') },
];
/** Width of the first column and of the last one. */
const NAME_WIDTH = 22;

export class Table {
  readonly #columns: readonly Column[];

  constructor(hasPeer: boolean) {
    this.#columns = hasPeer ? [...COLUMNS, ...PEER_COLUMNS] : COLUMNS;
  }

  header(): string {
    return this.#line(
      '',
      this.#columns.map(({ title }) => title),
      'floor is',
    );
  }

  row(result: Result): string {
    return this.#line(
      result.name,
      this.#columns.map(({ cell }) => cell(result)),
      result.over ?? '',
    );
  }

  failure({ name, vms, error }: Failure): string {
    return `${name.padEnd(NAME_WIDTH)}${String(vms ?? '').padStart(COLUMNS[0]!.width)}  failed: ${error}`;
  }

  #line(name: string, cells: readonly string[], last: string): string {
    const padded = cells.map((cell, index) => cell.padStart(this.#columns[index]!.width));
    return `${name.padEnd(NAME_WIDTH)}${padded.join('')}  ${last}`.trimEnd();
  }
}

/** The ratios, rounded, besides the figures from which they come. */
export function toJson(result: Result): object {
  const cpu = result.cpu && { ...result.cpu, ratio: rounded(cpuRatioOf(result)!) };
  const ratio = ratioOf(result);
  return { ...result, ...(ratio === undefined ? {} : { ratio: rounded(ratio) }), ...(cpu ? { cpu } : {}) };
}

function rounded(ratio: number): number {
  return Number(ratio.toFixed(3));
}

/** Three digits, or all before the point. */
function figure(value: number | undefined): string {
  if (value === undefined) return '';
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
