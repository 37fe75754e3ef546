/** `GET /registry/activity`: the last hour of the fleet. */
import { VregError } from '../../../src/protocol/errors.ts';
import type { RequestContext, Result } from '../context.ts';
import { jsonResult } from '../results.ts';

/** @throws VregError FORBIDDEN for a restricted token, because the activity counts all VMs */
export function readActivity({ services, readFilter }: RequestContext): Result {
  if (!readFilter) return jsonResult(services.activity.activity);
  throw new VregError('FORBIDDEN', 'a restricted token cannot read the activity of the entire fleet', {
    hint: 'create a token without --vm or --role: vreg token create NAME --scope read',
  });
}
