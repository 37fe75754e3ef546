/** The flags of `npm run bench`. */
import { parseArgs } from 'node:util';
import type { Row } from './row.ts';

export interface Options {
  /** Sizes of the fleet, ascending. */
  vms: readonly number[];
  rows: readonly Row[];
  json: boolean;
  peer: string | undefined;
  /** Measured turns of each row, after some that warm up. */
  turns: number;
  /** Requests in a turn, if their answers are small. */
  requests: number;
}

/** Bad usage, with the exit code of DESIGN section 4. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly exitCode = 5;
}

export const HELP = `Usage: npm run bench -- [FLAGS]

Compares vreg to the floor of the platform, in interleaved turns, and prints the medians.

  --only NAME     measure only this row or group of rows (repeatable)
  --vms SIZES     sizes of the fleet (default: 10,10000)
  --peer URL      also measure the registry at this URL, which must be empty; it is left empty
  --turns N       measured turns of each row (default: 5)
  --requests N    requests in a turn, less for large answers (default: 4000)
  --json          print JSON
  -h, --help      print this help
`;

/** @returns undefined if the help is wanted @throws UsageError */
export function parseOptions(argv: readonly string[], rows: readonly Row[]): Options | undefined {
  const { only = [], vms, peer, turns, requests, json = false, help = false } = parseFlags(argv);
  if (help) return undefined;
  return {
    vms: parseSizes(vms ?? '10,10000'),
    rows: only.length === 0 ? rows : selectRows(only, rows),
    json,
    peer: peer === undefined ? undefined : parsePeer(peer),
    turns: parseCount('--turns', turns ?? '5'),
    requests: parseCount('--requests', requests ?? '4000'),
  };
}

function parseFlags(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        only: { type: 'string', multiple: true },
        vms: { type: 'string' },
        peer: { type: 'string' },
        turns: { type: 'string' },
        requests: { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function selectRows(only: readonly string[], rows: readonly Row[]): readonly Row[] {
  const groups = new Set(rows.map(({ group }) => group));
  for (const name of only)
    if (!groups.has(name) && !rows.some((row) => row.name === name)) {
      const lines = [...groups].map(
        (group) => `  ${group}: ${rows.flatMap((row) => (row.group === group ? [row.name] : [])).join(' ')}`,
      );
      throw new UsageError(`unknown row "${name}"; the groups and their rows are\n${lines.join('\n')}`);
    }
  return rows.filter(({ name, group }) => only.includes(name) || only.includes(group));
}

function parseSizes(text: string): number[] {
  const sizes = text.split(',').map((size) => parseCount('--vms', size));
  return [...new Set(sizes)].sort((a, b) => a - b);
}

function parseCount(flag: string, text: string): number {
  const count = Number(text);
  if (!/^\d+$/.test(text) || count < 1) throw new UsageError(`${flag}: "${text}" is not a positive number`);
  return count;
}

function parsePeer(text: string): string {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol))
    throw new UsageError(`--peer: "${text}" is not an http(s) URL`);
  return new URL(text).origin;
}
