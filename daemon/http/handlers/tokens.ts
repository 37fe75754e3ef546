/** The routes for tokens, and `whoami`. */
import { VregError } from '../../../src/protocol/errors.ts';
import { maskTokens } from '../../../src/protocol/redact.ts';
import {
  type NewToken,
  parseTokenRequest,
  type Revoked,
  type Tokens,
  type Whoami,
} from '../../../src/protocol/token.ts';
import { assertActive } from '../../access/authenticator.ts';
import type { Principal } from '../../access/principal.ts';
import { noSuchToken } from '../../access/token-errors.ts';
import type { RequestContext, Result } from '../context.ts';
import { jsonResult } from '../results.ts';

export function listTokens({ services }: RequestContext): Result {
  const tokens = services.authenticator.tokens.list;
  return jsonResult({ tokens, count: tokens.length } satisfies Tokens);
}

export async function createToken(ctx: RequestContext): Promise<Result> {
  const { principal } = ctx;
  const { authenticator } = ctx.services;
  const request = parseTokenRequest(ctx.body);
  ctx.subject = { token: request.name };
  const isFirst = authenticator.isOpen;
  if (isFirst && !principal.isLocal && request.scope !== 'admin') {
    throw new VregError(
      'INVALID',
      'scope: the first token must have the scope admin, because the registry requires a token for every request once one exists',
      {
        field: 'scope',
        hint: 'create it with vreg token create NAME --scope admin, or start the daemon with VERS_AUTH_TOKEN',
      },
    );
  }
  await ctx.services.registry.replicas.catchUp();
  assertActive(principal);
  const token: NewToken = await authenticator.tokens.create(request, principal.name, () => assertActive(principal));
  if (isFirst) authenticator.close();
  ctx.position = ctx.services.registry.positions.current;
  return jsonResult(token, 201);
}

export async function revokeToken(ctx: RequestContext): Promise<Result> {
  const { name = '' } = ctx.params;
  await catchUp(ctx);
  const names = await ctx.services.authenticator.tokens.revoke(name, ctx.principal.name);
  if (names.length === 0) throw noSuchToken(maskTokens(name));
  return revoked(ctx, names);
}

/** Revokes the tokens of all VMs that enrolled with one enrol token. */
export async function revokeEnrolledBy(ctx: RequestContext): Promise<Result> {
  const enrolledBy = ctx.param('enrolledBy');
  if (enrolledBy === undefined) {
    throw new VregError('INVALID', 'enrolledBy is required: the name of an enrol token', {
      field: 'enrolledBy',
      hint: 'to revoke one token, use DELETE /registry/tokens/NAME',
    });
  }
  const { tokens } = ctx.services.authenticator;
  ctx.subject = { token: enrolledBy };
  await catchUp(ctx);
  return revoked(ctx, await tokens.revokeEnrolledBy(enrolledBy, ctx.principal.name));
}

/** Waits for tokens that another replica has created. A revocation takes effect here even if the store does not respond. */
async function catchUp({ services, principal }: RequestContext): Promise<void> {
  await services.registry.replicas.catchUp()?.catch(() => {});
  assertActive(principal);
}

export function whoami({ principal }: RequestContext): Result {
  return jsonResult(identityOf(principal));
}

/** The identity of a principal as clients get it. `expiresAt` is the expiry of its token. */
export function identityOf({ name, scope, restriction, token }: Principal): Whoami {
  const { vm, role } = restriction ?? {};
  const expiresAt = token?.info.expiresAt;
  return {
    name,
    scope,
    ...(vm === undefined ? {} : { vm }),
    ...(role === undefined ? {} : { role }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  };
}

function revoked(ctx: RequestContext, names: string[]): Result {
  ctx.position = ctx.services.registry.positions.current;
  return jsonResult({ revoked: names } satisfies Revoked);
}
