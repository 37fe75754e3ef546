/** Heartbeats of the whole fleet. */
import { MAX_BATCH, PATHS } from '../../src/protocol/api.ts';
import { batches, idOf } from './fleet.ts';
import { Load, requestOf, type Target } from './load.ts';

/** After its start, the daemon marks its answers as warming until it has received a heartbeat of each VM. */
export async function heartbeatAll(target: Target, vms: number): Promise<void> {
  const load = await Load.open(target, 1);
  const requests = batches(vms, MAX_BATCH).map((numbers) =>
    requestOf('POST', PATHS.heartbeats, target, JSON.stringify({ ids: numbers.map(idOf) })),
  );
  await load.run({ next: () => requests.shift() });
  load.close();
}
