/** The routes for the ancestors and descendants of a VM, which `parentId` connects, and for the difference of two VMs. */
import type { ReefDiff } from '../../../src/protocol/api.ts';
import type { ReefConfig } from '../../../src/protocol/vm.ts';
import { notFound, permits } from '../../registry/preconditions.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import type { RequestContext, Result } from '../context.ts';
import { isVregClient } from '../response/response.ts';
import { jsonResult, listResult } from '../results.ts';

export function children(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return relativesResult(ctx, 'children', ctx.services.registry.lineage.children(ctx.id));
}

export function ancestors(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return relativesResult(ctx, 'ancestors', ctx.services.registry.lineage.ancestors(ctx.id));
}

export function subtree(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return relativesResult(ctx, 'subtree', ctx.services.registry.lineage.subtree(ctx.id));
}

/** @param name of the list in the reef server's response; vreg clients also receive it as `vms`, like every other list */
function relativesResult(ctx: RequestContext, name: string, entries: readonly VmRecord[]): Result {
  return listResult(ctx, entries, { names: isVregClient(ctx) ? [name, 'vms'] : [name] });
}

/** Compares the `reefConfig` of two VMs: what the second one has and the first one lacks, and the reverse. */
export function diffVms(ctx: RequestContext): Result {
  const { reefConfig: before } = readable(ctx, ctx.id).vm;
  const { reefConfig: after } = readable(ctx, ctx.params.other!).vm;
  return jsonResult({ added: missingFrom(before, after), removed: missingFrom(after, before) } satisfies ReefDiff);
}

/** @throws VregError NOT_FOUND also if the principal may not read the VM, so that the response does not show that it exists */
function readable({ readFilter, services }: RequestContext, id: string): VmRecord {
  const entry = services.registry.get(id);
  if (!permits(readFilter, entry)) throw notFound();
  return entry;
}

/** The services and capabilities of `config` that `base` lacks, each once. */
function missingFrom(base: ReefConfig | undefined, config: ReefConfig | undefined): ReefDiff['added'] {
  const missing = (list: 'services' | 'capabilities') => {
    const known = new Set(base?.[list]);
    return [...new Set(config?.[list])].filter((name) => !known.has(name));
  };
  return { services: missing('services'), capabilities: missing('capabilities') };
}
