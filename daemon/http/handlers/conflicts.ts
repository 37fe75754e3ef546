/** The routes about identity conflicts: VMs of which two incarnations have sent heartbeats. */
import { VregError } from '../../../src/protocol/errors.ts';
import type { Cleared, Conflicts } from '../../../src/protocol/heartbeat.ts';
import { permits } from '../../registry/preconditions.ts';
import { jsonResult, type RequestContext, type Result } from '../context.ts';

export function listConflicts({ services: { registry }, readFilter }: RequestContext): Result {
  const isReadable = (id: string) =>
    !readFilter || permits(readFilter, registry.has(id) ? registry.get(id).vm : { id, role: '' });
  const { conflicts: all, conflictsInRole } = registry.identities;
  const conflicts = (readFilter?.role === undefined ? all : conflictsInRole).filter(({ id }) => isReadable(id));
  return jsonResult({ conflicts, count: conflicts.length } satisfies Conflicts);
}

/** A clone must not erase the evidence against it, so tokens that are limited to some VMs may not clear conflicts. */
export async function clearConflicts(ctx: RequestContext): Promise<Result> {
  if (ctx.principal.restriction) {
    throw new VregError('FORBIDDEN', 'a token that is limited to some VMs cannot clear conflicts', {
      hint: 'use a token of the scope write that has no limit',
    });
  }
  const { registry } = ctx.services;
  const cleared = await registry.identities.clear(ctx.nonEmpty('id'), () => registry.saveHeartbeats());
  return jsonResult({ cleared } satisfies Cleared);
}
