/** The fleet that the benchmark stores: entries of about 370 bytes in realistic roles. */
import type { Registration, Role } from '../../src/protocol/vm.ts';
import { chain, openDir, putOf } from '../helpers/store.ts';

/** Changes per transaction. */
const BATCH = 10_000;

/** Three infra VMs, nine workers of ten VMs, and some of each other role. */
function roleOf(n: number): Role {
  if (n < 3) return 'infra';
  if (n % 10 !== 9) return 'worker';
  return n % 20 === 9 ? 'lieutenant' : 'golden';
}

/** Id of the nth VM. All ids have the same length, so that all entries have nearly the same size. */
export function idOf(n: number): string {
  return `vm-${String(n).padStart(7, '0')}`;
}

export function nthVm(n: number, role = roleOf(n)): Registration {
  const id = idOf(n);
  return {
    id,
    name: `agent ${n}`,
    role,
    status: 'running',
    address: `${id}.vm.vers.sh`,
    services: [{ name: 'pi-rpc', port: 3001, healthPath: '/health' }],
    metadata: { task: 'process invoices', commitId: '4f2a9c1e-8f6e-4c57-9d0b-7a51c2d9e3b4' },
    registeredBy: 'orchestrator',
  };
}

/** @returns the numbers below a limit, divided into batches */
export function batches(limit: number, size: number): number[][] {
  return Array.from({ length: Math.ceil(limit / size) }, (_, batch) =>
    Array.from({ length: Math.min(size, limit - batch * size) }, (_, index) => batch * size + index),
  );
}

/** Writes a fleet into a new data dir, through the store, because a million registrations would take minutes. */
export async function storeFleet(dataDir: string, vms: number): Promise<void> {
  const { store, contents } = await openDir(dataDir);
  let { tag } = contents.positions.at(-1)!;
  for (const numbers of batches(vms, BATCH)) {
    const puts = numbers.map((n) => putOf({ id: idOf(n), revision: n + 1, more: nthVm(n) }));
    const changes = chain(puts, tag);
    tag = changes.at(-1)!.tag;
    await store.commitAll(changes, async (items, act) => items.forEach((item) => void act(item)));
  }
  await store.close();
}
