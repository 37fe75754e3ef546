/** The routes for the ancestors and descendants of a VM, which `parentId` connects. */
import type { RequestContext, Result } from '../context.ts';

export function children(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return ctx.entries(ctx.services.registry.lineage.children(ctx.id));
}

export function ancestors(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return ctx.entries(ctx.services.registry.lineage.ancestors(ctx.id));
}

export function subtree(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return ctx.entries(ctx.services.registry.lineage.subtree(ctx.id));
}
