/** The rows of the benchmark, and the figures that they measure. */
import type { Lab } from './lab.ts';

/** Size of the fleet for rows that do not depend on it. */
export const SMALL_FLEET = 10;

export interface Row {
  /** The name for `--only`. */
  name: string;
  /** `--only` also accepts a group. */
  group: string;
  /** True to measure it for each size of the fleet, false to measure it once, with {@link SMALL_FLEET}. */
  isPerFleet: boolean;
  measure(lab: Lab): Promise<readonly Line[]>;
}

/** A line of the table. */
export interface Line {
  name: string;
  /** Unit of `vreg`, `floor` and `peer`. In requests or entries per second, more is better; otherwise less is better. */
  unit: '1/s' | 'ms' | 's' | 'MiB';
  vreg: number;
  /** Name of the floor. */
  over?: string;
  floor?: number | undefined;
  /** CPU time per request or per run, in microseconds. */
  cpu?: Pair | undefined;
  peer?: number | undefined;
  /** The aim, for the reader: the benchmark asserts nothing. */
  goal?: string;
}

export interface Pair {
  vreg: number;
  floor: number;
}

/** @returns vreg over floor: of rates, more is better; of times and sizes, less is better */
export function ratioOf({ vreg, floor }: Line): number | undefined {
  return floor === undefined ? undefined : vreg / floor;
}

/** As {@link ratioOf}, of CPU time. For a rate, that of the floor over that of vreg, so that more is better, too. */
export function cpuRatioOf({ unit, cpu }: Line): number | undefined {
  if (!cpu) return undefined;
  return unit === '1/s' ? cpu.floor / cpu.vreg : cpu.vreg / cpu.floor;
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
