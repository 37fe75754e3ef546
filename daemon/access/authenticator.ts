/** Authenticates clients by token, certificate or unix socket, and checks the scopes of principals. */
import { timingSafeEqual } from 'node:crypto';
import { VregError } from '../../src/protocol/errors.ts';
import { isReserved, mayDo, type Scope } from '../../src/protocol/token.ts';
import { ANONYMOUS, type TokenRestriction } from '../registry/preconditions.ts';
import { AuthThrottle, OLD_TOKEN_ALLOWANCE } from './throttle.ts';
import { expired, hashOf, newRevocation, TOKEN_FORM, type Token, type Tokens, unauthorized } from './tokens.ts';

/** Name of a principal with the root token, with which the daemon was started. */
export const ROOT_NAME = 'VERS_AUTH_TOKEN';
/** Name of a principal without a token on the unix socket. */
const SOCKET_NAME = 'socket';
const TOKEN_HINT = 'send "Authorization: Bearer TOKEN" (vreg: VERS_AUTH_TOKEN or --token-file)';

/** An authenticated client. */
export interface Principal {
  /** The name of a token, `VERS_AUTH_TOKEN`, `socket`, or `anonymous`. */
  name: string;
  scope: Scope;
  /** VMs that the principal may change, or read with the scope `read`; undefined means all. */
  restriction?: TokenRestriction | undefined;
  token?: Token;
  /** Connected through the unix socket. */
  isLocal?: boolean;
  /**
   * Aborted when the principal's token is revoked, replaced or expires, which ends all open responses and request bodies of the
   * principal. The abort reason is the VregError with which to respond.
   */
  revoked: AbortSignal;
}

/** The credentials of a client, before they are checked. */
export interface Credentials {
  /** The `Authorization` header. */
  authorization: string | undefined;
  /** The peer's address; undefined on a unix socket. */
  address: string | undefined;
  /** The client is connected through the unix socket, which only the daemon's owner and root can open, and is not a proxy. */
  isLocal: boolean;
  /** Name of a header in a request on the unix socket that a proxy may have added; the request then needs a token. */
  proxyHeader?: string | undefined;
  /** The name in the client certificate, if a trusted CA has signed it. */
  certificate?: string | undefined;
}

/** True if the principal's token is still valid, that is, has neither been revoked nor expired since authentication. */
export function isActive({ token, revoked }: Principal): boolean {
  return !revoked.aborted && !token?.isExpired();
}

/** @throws VregError UNAUTHORIZED unless the principal {@link isActive} */
export function assertActive({ token, revoked }: Principal): void {
  revoked.throwIfAborted();
  if (token?.isExpired()) throw expired(token);
}

/** @throws VregError FORBIDDEN unless the principal has the required scope */
export function assertScope({ name, scope }: Principal, needed: Scope): void {
  if (mayDo(scope, needed)) return;
  throw new VregError('FORBIDDEN', `token "${name}" has the scope ${scope}; this requires ${needed}`, {
    field: 'scope',
    hint:
      scope === 'enrol'
        ? 'an enrol token can only register a new VM: use the token that the VM received in the response'
        : `create one with that scope: vreg token create NAME --scope ${needed}`,
  });
}

export interface AuthenticatorOptions {
  /** The root token, which has all permissions, as in the original registry (vers-agent-services). */
  root?: string | undefined;
  tokens: Tokens;
  /** A monotonic clock in milliseconds. */
  ticks(): number;
}

export class Authenticator {
  readonly tokens: Tokens;
  /** Counts failures that may be guesses at the root token. */
  readonly #guesses: AuthThrottle;
  /** Counts failures with tokens that have the format of an issued token. */
  readonly #oldTokens: AuthThrottle;
  #root: { hash: Buffer; revocation: AbortController } | undefined;
  /** Revokes the anonymous principals of a registry without tokens. */
  readonly #openRevocation = newRevocation();
  /** Never aborted: principals on the unix socket are not revoked. */
  readonly #socketRevoked = newRevocation().signal;

  constructor({ root, tokens, ticks }: AuthenticatorOptions) {
    this.tokens = tokens;
    this.#guesses = new AuthThrottle(ticks);
    this.#oldTokens = new AuthThrottle(ticks, OLD_TOKEN_ALLOWANCE);
    this.#root = root === undefined ? undefined : { hash: bufferOf(root), revocation: newRevocation() };
  }

  /** True if clients need no token. */
  get isOpen(): boolean {
    return this.#root === undefined && !this.tokens.isClosed;
  }

  get hasRoot(): boolean {
    return this.#root !== undefined;
  }

  /** Replaces the root token, and revokes the principals that have authenticated with the old one. */
  replaceRoot(token: string): void {
    const before = this.#root;
    const hash = bufferOf(token);
    if (before && timingSafeEqual(before.hash, hash)) return;
    this.#root = { hash, revocation: newRevocation() };
    before?.revocation.abort(unauthorized(`Unauthorized — ${ROOT_NAME} was replaced`, 'use the new token'));
  }

  /** Revokes the anonymous principals. Called when the first token was created. */
  close(): void {
    this.#openRevocation.abort(unauthorized('Unauthorized — the registry requires a token now', TOKEN_HINT));
  }

  /** Name of the token in rejected credentials, such as an expired token; for the audit log. */
  nameOfRejected({
    authorization,
    certificate,
  }: Pick<Credentials, 'authorization' | 'certificate'>): string | undefined {
    if (!authorization) return this.#tokenOfCertificate(certificate)?.name;
    const secret = secretOf(authorization);
    return secret === undefined ? undefined : this.tokens.find(secret)?.name;
  }

  /** @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS */
  authenticate({ authorization, address = '', isLocal, proxyHeader, certificate }: Credentials): Principal {
    if (this.isOpen) {
      const name = certificate === undefined || isReserved(certificate) ? ANONYMOUS : certificate;
      return { name, scope: 'admin', isLocal, revoked: this.#openRevocation.signal };
    }
    if (authorization) return this.#authenticateHeader(authorization, address);
    if (isLocal) return { name: SOCKET_NAME, scope: 'admin', revoked: this.#socketRevoked };
    const token = this.#tokenOfCertificate(certificate);
    if (token) return this.#authenticateToken(token, address);
    if (certificate !== undefined) {
      throw unauthorized(
        `Unauthorized — there is no token with the name of the certificate, "${certificate}"`,
        TOKEN_HINT,
      );
    }
    const hint =
      proxyHeader === undefined ? TOKEN_HINT : `the header "${proxyHeader}" may come from a proxy: ${TOKEN_HINT}`;
    throw unauthorized('Unauthorized — missing Authorization header', hint);
  }

  #tokenOfCertificate(name = ''): Token | undefined {
    // Names with a slash belong to the tokens of enrolled VMs, which a certificate must not impersonate.
    return name.includes('/') ? undefined : this.tokens.named(name);
  }

  #authenticateHeader(authorization: string, address: string): Principal {
    const secret = secretOf(authorization);
    const hash = secret === undefined ? undefined : hashOf(secret);
    const token = secret === undefined ? undefined : this.tokens.find(secret, hash);
    if (token) return this.#authenticateToken(token, address);
    const wait = this.#guesses.lockedOut(address);
    if (wait === undefined && hash !== undefined && this.#isRoot(hash)) {
      this.#guesses.succeeded(address);
      return { name: ROOT_NAME, scope: 'admin', revoked: this.#root!.revocation.signal };
    }
    // A token with the format of an issued token is an old token, not a guess at the root token.
    const isOld = secret !== undefined && TOKEN_FORM.test(secret);
    const retryAfter = isOld ? this.#oldTokens.failed(address) : (wait ?? this.#guesses.failed(address));
    if (retryAfter === undefined) {
      const alternative = this.tokens.isClosed ? ', or one from vreg token create' : '';
      throw unauthorized(
        'Unauthorized — invalid token',
        `use the token with which the daemon was started${alternative}`,
      );
    }
    throw new VregError('TOO_MANY_REQUESTS', 'Unauthorized — too many invalid tokens from this address', {
      field: 'authorization',
      retryAfter,
      hint: `retry in ${retryAfter} s with the correct token`,
    });
  }

  #authenticateToken(token: Token, address: string): Principal {
    this.tokens.assertNotExpired(token);
    this.tokens.used(token, address || undefined);
    const { name, scope, restriction, revoked } = token;
    return { name, scope, restriction, token, revoked };
  }

  #isRoot(hash: string): boolean {
    return this.#root !== undefined && timingSafeEqual(Buffer.from(hash), this.#root.hash);
  }
}

function secretOf(authorization: string): string | undefined {
  return /^Bearer\s+(.+)$/i.exec(authorization)?.[1];
}

/** The hash of a token. It has the same length for every token, as `timingSafeEqual` requires. */
function bufferOf(token: string): Buffer {
  return Buffer.from(hashOf(token));
}
