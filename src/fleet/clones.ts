/** The clones of a VM, live and past, from the conflicts on record. */
import type { RegistryClient } from '../client.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { Conflict } from '../protocol/heartbeat.ts';
import { type Liveness, livenessOf } from '../protocol/liveness.ts';
import { fieldForScripts, idFault } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { isClaimHeard } from './self.ts';

export interface Clone {
  /** Its own id; null if it has not registered under one. */
  id: string | null;
  cloneOf: string;
  state: Conflict['state'];
  /** `gone`: it is no longer registered or, without an id of its own, has sent no heartbeat for one lease period. */
  live: Liveness | 'gone';
  address: string | undefined;
  incarnation: string | undefined;
  /** Its first and last refused heartbeat, RFC 3339. */
  firstAt: string;
  lastAt: string;
  /** 1 for a clone of the requested VM, 2 for a clone of that clone, and so on. */
  generation: number;
}

/**
 * The clones of a VM, or of all VMs, each below the one from which it was copied.
 * @throws VregError UNSUPPORTED with the original registry, or any error of the client
 */
export async function clonesOf(client: RegistryClient, id: string | undefined): Promise<Clone[]> {
  const { conflicts } = await client.conflicts();
  const clones: Clone[] = [];
  const seen = new Set<Conflict>();
  const add = async (of: string, generation: number): Promise<void> => {
    for (const conflict of conflicts.filter((each) => each.id === of).reverse()) {
      if (seen.has(conflict)) continue;
      seen.add(conflict);
      const { state, rebornAs, other, firstAt, lastAt } = conflict;
      const { live, entry } = await findClone(client, conflict);
      clones.push({
        id: rebornAs ?? null,
        cloneOf: of,
        state,
        live,
        address: entry?.address ?? other.address,
        incarnation: other.incarnation,
        firstAt,
        lastAt,
        generation,
      });
      if (rebornAs !== undefined) await add(rebornAs, generation + 1);
    }
  };
  const reborn = new Set(conflicts.flatMap(({ rebornAs }) => rebornAs ?? []));
  const all = [...new Set(conflicts.map((conflict) => conflict.id))];
  // A clone of a clone is listed below it. Ids that form a cycle have no first one.
  const first = [...all.filter((each) => !reborn.has(each)), ...all];
  for (const each of id === undefined ? first : [id]) await add(each, 1);
  return clones;
}

export function clonesAnswer(clones: readonly Clone[], isDrawn: boolean): RowsAnswer<Clone> {
  const branches = new Map(isDrawn ? clones.map((clone, index) => [clone, branchAt(clones, index)]) : []);
  return {
    kind: 'rows',
    rows: clones,
    columns: [
      { title: 'ID', cell: (clone) => `${branches.get(clone) ?? ''}${clone.id ?? '-'}` },
      { title: 'CLONE OF', cell: ({ cloneOf }) => cloneOf },
      { title: 'STATE', cell: ({ state }) => state },
      { title: 'LIVE', cell: ({ live }) => live },
      { title: 'ADDRESS', cell: ({ address = '-' }) => address },
      { title: 'FIRST', cell: ({ firstAt }) => ({ time: firstAt }) },
      { title: 'LAST', cell: ({ lastAt }) => ({ time: lastAt }) },
      { title: 'INCARNATION', wide: true, cell: ({ incarnation = '-' }) => incarnation },
    ],
    name: ({ id }) => id ?? '-',
    data: ({ generation: _generation, ...clone }) => clone,
    forScripts: (clone) => ({
      row: {
        ...clone,
        address: clone.address && String(fieldForScripts('address', clone.address)),
      },
      fault: (clone.id === null ? undefined : idFault(clone.id)) ?? idFault(clone.cloneOf),
    }),
    none: 'no clones on record',
  };
}

/** The lines of the tree before a clone: one for each generation. */
function branchAt(clones: readonly Clone[], index: number): string {
  const { generation } = clones[index]!;
  const lines = Array.from({ length: generation }, (_, level) => {
    const isOwn = level + 1 === generation;
    if (hasSiblingBelow(clones, index, level + 1)) return isOwn ? '├─ ' : '│  ';
    return isOwn ? '└─ ' : '   ';
  });
  return lines.join('');
}

/** Whether a later row continues the line of this generation: the next one that is not deeper is a clone of the same VM. */
function hasSiblingBelow(clones: readonly Clone[], index: number, generation: number): boolean {
  const above = clones.slice(0, index + 1).findLast((clone) => clone.generation === generation);
  const below = clones.slice(index + 1).find((clone) => clone.generation <= generation);
  return below?.generation === generation && below.cloneOf === above?.cloneOf;
}

/** The ids, and those under which their clones continue, and so on. @param conflicts all that are on record */
export function withCloneIds(ids: readonly string[], conflicts: readonly Conflict[]): ReadonlySet<string> {
  const found = new Set(ids);
  // A set also visits the members that are added during the loop.
  for (const id of found)
    for (const conflict of conflicts)
      if (conflict.id === id && conflict.rebornAs !== undefined) found.add(conflict.rebornAs);
  return found;
}

/** Whether the refused incarnation of a conflict is live, and its entry if it has one of its own. @throws the client's errors */
export async function findClone(
  client: RegistryClient,
  conflict: Conflict,
): Promise<Pick<Clone, 'live'> & { entry: VmWithLiveness | undefined }> {
  const { state, rebornAs } = conflict;
  const entry = rebornAs === undefined ? undefined : await getIfRegistered(client, rebornAs);
  const isHeard = state === 'open' && isClaimHeard(conflict, client.server);
  return { live: entry ? livenessOf(entry) : isHeard ? 'live' : 'gone', entry };
}

async function getIfRegistered(client: RegistryClient, id: string): Promise<VmWithLiveness | undefined> {
  if (idFault(id)) return undefined;
  return client.get(id).catch((error: unknown) => {
    if (error instanceof VregError && ['NOT_FOUND', 'FORBIDDEN'].includes(error.code)) return undefined;
    throw error;
  });
}
