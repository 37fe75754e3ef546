/** Measures the chosen rows, and prints each as soon as it is known. */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { AGENT_ROWS } from './agent-memory.ts';
import { removeFolder, tempFolder } from './cleanup.ts';
import { CLI_ROWS } from './cli-start.ts';
import { ETCD_ROWS } from './etcd.ts';
import { IMPORT_ROWS } from './import.ts';
import { Lab } from './lab.ts';
import { MIXED_ROWS } from './mixed.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { Peer } from './peer.ts';
import { REGISTER_ROWS } from './registrations.ts';
import { ROUTE_ROWS } from './routes.ts';
import { type Row, SMALL_FLEET } from './row.ts';
import { START_ROWS } from './start.ts';
import { type Failure, type Result, Table, toJson } from './table.ts';

export const ROWS: readonly Row[] = [
  ...ROUTE_ROWS,
  ...START_ROWS,
  ...IMPORT_ROWS,
  ...REGISTER_ROWS,
  ...ETCD_ROWS,
  ...MIXED_ROWS,
  ...AGENT_ROWS,
  ...CLI_ROWS,
];

/** @returns the exit code @throws UsageError */
export async function bench(argv: readonly string[], print: (line: string) => void): Promise<number> {
  const options = parseOptions(argv, ROWS);
  if (!options) {
    print(HELP);
    return 0;
  }
  const peer = options.peer === undefined ? undefined : await Peer.open(options.peer);
  const home = tempFolder(tmpdir());
  try {
    return await measureRows(options, home, peer, print);
  } finally {
    await peer?.end();
    removeFolder(home);
  }
}

async function measureRows(
  options: Options,
  home: string,
  peer: Peer | undefined,
  print: (line: string) => void,
): Promise<number> {
  const table = new Table(peer !== undefined);
  const results: Result[] = [];
  const failures: Failure[] = [];
  const printRow = options.json ? () => {} : print;
  printRow(
    `node ${process.version}, ${cpus().length} CPUs, load ${loadavg()[0]!.toFixed(1)}; medians of ${options.turns} turns`,
  );
  printRow(table.header());
  for (const { rows, vms, size } of labsOf(options)) {
    const lab = new Lab(options, mkdtempSync(join(home, 'lab-')), size, peer);
    for (const row of rows) {
      try {
        for (const line of await row.measure(lab)) {
          results.push({ ...line, vms });
          printRow(table.row(results.at(-1)!));
        }
      } catch (error) {
        failures.push({ name: row.name, vms, error: (error as Error).message });
        printRow(table.failure(failures.at(-1)!));
      }
    }
    await lab.end();
    rmSync(lab.home, { recursive: true, force: true });
  }
  if (options.json) print(JSON.stringify({ node: process.version, rows: results.map(toJson), failures }, null, 2));
  return failures.length > 0 ? 1 : 0;
}

/** A lab for each size of the fleet, and one for the rows that do not depend on it, which show no size. */
function labsOf({ rows, vms: sizes }: Options): { rows: readonly Row[]; vms?: number; size: number }[] {
  const perFleet = rows.filter(({ isPerFleet }) => isPerFleet);
  const single = rows.filter(({ isPerFleet }) => !isPerFleet);
  const labs = sizes.map((vms) => ({ rows: perFleet, vms, size: vms }));
  return [...labs, { rows: single, size: SMALL_FLEET }].filter(({ rows }) => rows.length > 0);
}
