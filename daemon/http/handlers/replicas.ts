/** `GET /registry/replicas`: the daemons that share the store with this one, and which of them has answered. */
import type { ReplicaList } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { RequestContext, Result } from '../context.ts';
import { jsonResult } from '../results.ts';

/** @throws VregError FORBIDDEN for a restricted token, because the replicas are not about its VMs */
export function listReplicas({ services, readFilter }: RequestContext): Result {
  if (readFilter) {
    throw new VregError('FORBIDDEN', 'a restricted token cannot read the replicas of the registry', {
      hint: 'create a token without --vm or --role: vreg token create NAME --scope read',
    });
  }
  const replicas = services.registry.replicas.all;
  return jsonResult({ replicas: [...replicas], count: replicas.length } satisfies ReplicaList);
}
