import { VregError } from '../../src/protocol/errors.ts';
import type { TokenInfo } from '../../src/protocol/token.ts';

export function unauthorized(message: string, hint: string): VregError {
  return new VregError('UNAUTHORIZED', message, { hint });
}

export function expired({ name, expiresAt }: Pick<TokenInfo, 'name' | 'expiresAt'>): VregError {
  return unauthorized(
    `Unauthorized — the token "${name}" expired at ${expiresAt}`,
    'create a new token: vreg token create',
  );
}

/** The error for a revocation that is in effect but not saved completely. */
export function notYetDurable(names: readonly string[], error: unknown): unknown {
  if (!(error instanceof VregError)) return error;
  const { code, message, hint, retryAfter } = error;
  const listed = `${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`;
  return new VregError(
    code,
    `revoked ${listed}, but a restart may undo it, because it could not be saved completely: ${message}`,
    {
      ...(hint ? { hint } : {}),
      ...(retryAfter === undefined ? {} : { retryAfter }),
      cause: error,
    },
  );
}

/** @throws VregError NOT_FOUND */
export function noSuchToken(name: string): VregError {
  return new VregError('NOT_FOUND', `there is no token "${name}"`, {
    field: 'name',
    hint: 'list the tokens: vreg token ls',
  });
}
