/**
 * Durable registrations. One floor is a process that appends each entry to a file and waits for the disk: the cost of the disk
 * alone, with `fdatasync` as the goal has it, and with `fsync`, which the SQLite library calls and which also waits for the times of
 * the file. Another floor is an HTTP server with a worker thread that does the same: the cost of the platform. The last floor is
 * the same daemon whose data dir is in memory, where a sync does nothing: the cost of everything else.
 */
import { closeSync, existsSync, fdatasyncSync, fsyncSync, mkdtempSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { PATHS } from '../../src/protocol/api.ts';
import { removeFolder, tempFolder } from './cleanup.ts';
import { type Contestant, compete, handling } from './compare.ts';
import { nthVm } from './fleet.ts';
import type { Lab } from './lab.ts';
import { requestOf } from './load.ts';
import type { Line, Row } from './row.ts';
import { RawServer } from './servers.ts';

/** A folder in memory on Linux. Without it, the second floor is not measured. */
const MEMORY_DIR = '/dev/shm';
/** The number of the first VM that is registered: none of the stored fleet. */
const FIRST = 1_000_000;

/** Concurrent writers, and registrations in a turn: about half a second each on a disk that syncs in a millisecond. */
const WRITERS: readonly { writers: number; count: number; goals: { synced: string; unsynced: string } }[] = [
  { writers: 1, count: 250, goals: { synced: '≥ 0.5', unsynced: '' } },
  { writers: 16, count: 1500, goals: { synced: '', unsynced: '≥ 0.7' } },
  { writers: 64, count: 3000, goals: { synced: '', unsynced: '' } },
  { writers: 256, count: 4000, goals: { synced: '', unsynced: '≥ 0.7' } },
];

export const REGISTER_ROWS: readonly Row[] = WRITERS.map(({ writers, count, goals }) => ({
  name: `register-${writers}`,
  group: 'register',
  isPerFleet: false,
  async measure(lab) {
    const memory = existsSync(MEMORY_DIR) ? tempFolder(MEMORY_DIR) : undefined;
    try {
      return await measureRegistrations(lab, memory, { writers, count, goals });
    } finally {
      if (memory) removeFolder(memory);
    }
  },
}));

async function measureRegistrations(
  lab: Lab,
  memory: string | undefined,
  { writers, count, goals }: (typeof WRITERS)[number],
): Promise<Line[]> {
  const synced = await lab.startDaemon(mkdtempSync(join(lab.home, 'synced-')));
  const unsynced = memory === undefined ? undefined : await lab.startDaemon(join(memory, 'data'));
  const appender = await RawServer.startAppending(lab.home);
  let registered = FIRST;
  const requests = {
    connections: writers,
    count: Math.min(count, lab.options.requests),

    to: () => () => requestOf('POST', PATHS.vms, {}, JSON.stringify(nthVm(registered++))),
  };
  const contestants = [
    await handling(synced, requests),
    ...[fdatasyncSync, fsyncSync].map((sync) =>
      appending(join(lab.home, sync.name), sync, Math.min(WRITERS[0]!.count, lab.options.requests)),
    ),
    await handling(appender, requests),
    ...(unsynced ? [await handling(unsynced, requests)] : []),
  ];
  const [vreg, fdatasync, fsync, platform, other] = await compete(contestants, {
    warmUp: 1,
    measured: lab.options.turns,
  }).finally(() => Promise.all([synced.end(), appender.end(), unsynced?.end()]));
  const line = { name: `register-${writers}`, unit: '1/s', vreg: vreg!.rate } as const;
  const lines: Line[] = [
    { ...line, over: 'append + fdatasync', floor: fdatasync!.rate, goal: goals.synced },
    { ...line, over: 'append + fsync', floor: fsync!.rate },
    {
      ...line,
      over: 'node:http + append + fdatasync',
      floor: platform!.rate,
      cpu: { vreg: vreg!.cpu!, floor: platform!.cpu! },
    },
  ];
  if (other) {
    const cpu = { vreg: vreg!.cpu!, floor: other.cpu! };
    lines.push({ ...line, over: 'vreg without syncs', floor: other.rate, cpu, goal: goals.unsynced });
  }
  return lines;
}

function appending(path: string, sync: (file: number) => void, count: number): Contestant {
  const file = openSync(path, 'a');
  const entry = Buffer.from(`${JSON.stringify(nthVm(FIRST))}\n`);
  return {
    async turn() {
      const started = performance.now();
      for (let n = 0; n < count; n++) {
        writeSync(file, entry);
        sync(file);
      }
      return { count, seconds: (performance.now() - started) / 1000 };
    },
    close: () => closeSync(file),
  };
}
