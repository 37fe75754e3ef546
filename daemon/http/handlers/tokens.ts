/** The routes about tokens, and about who asks. */

import { VregError } from '../../../src/protocol/errors.ts';
import { maskTokens } from '../../../src/protocol/redact.ts';
import {
  type NewToken,
  parseTokenRequest,
  type Revoked,
  type Tokens,
  type Whoami,
} from '../../../src/protocol/token.ts';
import { noSuchToken } from '../../access/tokens.ts';
import type { RequestContext, Result } from '../context.ts';

export function listTokens({ services }: RequestContext): Result {
  const tokens = services.authenticator.tokens.list;
  return { status: 200, body: JSON.stringify({ tokens, count: tokens.length } satisfies Tokens) };
}

export async function createToken(ctx: RequestContext): Promise<Result> {
  const { principal } = ctx;
  const { authenticator } = ctx.services;
  const request = parseTokenRequest(ctx.body);
  ctx.subject = { token: request.name };
  const isFirst = authenticator.isOpen;
  if (isFirst && !principal.isLocal && request.scope !== 'admin') {
    throw new VregError('INVALID', 'scope: the first token must be of the scope admin, since from it on all need one', {
      field: 'scope',
      hint: 'make one: vreg token create NAME --scope admin; or start the daemon with VERS_AUTH_TOKEN',
    });
  }
  const token: NewToken = await authenticator.tokens.create(request, principal.name);
  if (isFirst) authenticator.close();
  return { status: 201, body: JSON.stringify(token) };
}

export async function revokeToken({ services, params: { name = '' } }: RequestContext): Promise<Result> {
  const names = await services.authenticator.tokens.revoke(name);
  if (names.length === 0) throw noSuchToken(maskTokens(name));
  return revoked(names);
}

/** The tokens of the VMs that one enrol token let in. */
export async function revokeEnrolledBy(ctx: RequestContext): Promise<Result> {
  const { enrolledBy } = ctx.query('enrolledBy');
  if (enrolledBy === undefined) {
    throw new VregError('INVALID', 'enrolledBy is required: the name of an enrol token', {
      field: 'enrolledBy',
      hint: 'one token is revoked by DELETE /registry/tokens/NAME',
    });
  }
  const { tokens } = ctx.services.authenticator;
  ctx.subject = { token: enrolledBy };
  return revoked(await tokens.revokeEnrolledBy(enrolledBy));
}

export function whoami({ principal: { name, scope, restriction, token } }: RequestContext): Result {
  const { vm, role } = restriction ?? {};
  const expiresAt = token?.info.expiresAt;
  const answer: Whoami = {
    name,
    scope,
    ...(vm === undefined ? {} : { vm }),
    ...(role === undefined ? {} : { role }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  };
  return { status: 200, body: JSON.stringify(answer) };
}

function revoked(names: string[]): Result {
  return { status: 200, body: JSON.stringify({ revoked: names } satisfies Revoked) };
}
