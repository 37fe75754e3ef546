/** The routes for conflicts: VMs for which two incarnations have sent heartbeats, and a second registry at the same URL. */
import { VregError } from '../../../src/protocol/errors.ts';
import type { Cleared, Conflicts } from '../../../src/protocol/heartbeat.ts';
import { permits } from '../../registry/preconditions.ts';
import type { RequestContext, Result } from '../context.ts';
import { jsonResult } from '../results.ts';

export function listConflicts({ services: { registry }, readFilter }: RequestContext): Result {
  const isReadable = (id: string) =>
    !readFilter || permits(readFilter, registry.has(id) ? registry.get(id) : { id, role: '' });
  const recorded = readFilter?.role === undefined ? registry.conflicts.all : registry.conflicts.inCurrentRole;
  const conflicts = recorded.filter(({ id }) => isReadable(id));
  const { otherRegistry } = registry.historyClaims;
  // The claim counts VMs of the entire fleet, which a restricted token may not read.
  const claim = readFilter || !otherRegistry ? {} : { otherRegistry };
  return jsonResult({ conflicts, count: conflicts.length, ...claim } satisfies Conflicts);
}

/** Clears conflicts. Restricted tokens may not, because a clone could otherwise hide that it exists. */
export async function clearConflicts(ctx: RequestContext): Promise<Result> {
  if (ctx.principal.restriction) {
    throw new VregError('FORBIDDEN', 'a restricted token cannot clear conflicts', {
      hint: 'use a token with the scope write that is not restricted to a VM or role',
    });
  }
  const { registry } = ctx.services;
  const id = ctx.nonEmpty('id');
  const save = () => registry.saveHeartbeats();
  const conflicts = await registry.conflicts.clear(id, save);
  const claims = id === undefined ? await registry.historyClaims.clear(save) : 0;
  return jsonResult({ cleared: conflicts + claims } satisfies Cleared);
}
