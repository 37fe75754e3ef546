/** Authenticates clients by token, certificate or unix socket, and checks the scopes of principals. */
import { timingSafeEqual } from 'node:crypto';
import { VregError } from '../../src/protocol/errors.ts';
import { ENROL_HINT, isReserved, mayDo, type Scope } from '../../src/protocol/token.ts';
import { ANONYMOUS } from '../registry/preconditions.ts';
import type { Principal } from './principal.ts';
import type { Sessions } from './sessions.ts';
import { hashOf, TOKEN_FORM } from './stored-token.ts';
import { AuthThrottle, OLD_TOKEN_ALLOWANCE } from './throttle.ts';
import { newRevocation, Token } from './token.ts';
import { expired, unauthorized } from './token-errors.ts';
import type { Tokens } from './tokens.ts';

/** Name of a principal with the root token, with which the daemon was started. */
const ROOT_NAME = 'VERS_AUTH_TOKEN';
/** Name of a principal without a token on the unix socket. */
const SOCKET_NAME = 'socket';
const TOKEN_HINT = 'send "Authorization: Bearer TOKEN" (vreg: VERS_AUTH_TOKEN or --token-file)';

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
  /** The secret of a session, from a cookie. */
  session?: string | undefined;
  /** The connection, on which the token of the last accepted header is remembered; if absent, nothing is. */
  connection?: Connection | undefined;
}

/** True if the principal's token is still valid, that is, has neither been revoked nor expired since authentication. */
export function isActive({ token, revoked }: Principal): boolean {
  return !revoked.aborted && !token?.isExpired();
}

/** @throws VregError UNAUTHORIZED unless the principal {@link isActive} */
export function assertActive({ token, revoked }: Principal): void {
  if (revoked.aborted) throw revoked.reason;
  if (token?.isExpired()) throw expired(token.info);
}

/** @throws VregError FORBIDDEN unless the principal has the required scope */
export function assertScope({ name, scope }: Principal, needed: Scope): void {
  if (mayDo(scope, needed)) return;
  throw new VregError('FORBIDDEN', `token "${name}" has the scope ${scope}; this requires ${needed}`, {
    field: 'scope',
    hint: scope === 'enrol' ? ENROL_HINT : `create one with that scope: vreg token create NAME --scope ${needed}`,
  });
}

/** The root token, by its hash. */
interface Root {
  readonly hash: Buffer;
  readonly revocation: AbortController;
  readonly principal: Principal;
}

const RECALLED = Symbol('recalled');

/**
 * A connection, which remembers the token of its last accepted `Authorization` header, because finding a token by its hash takes a
 * sixth of a request. The memory is bounded by the number of connections and ends with them.
 */
export interface Connection {
  /**
   * At most one entry, by the exact text of the header. A map compares two texts only if their hashes, which have a random seed, are
   * equal, so the time of a lookup reveals nothing to other clients of the same proxy.
   */
  [RECALLED]?: Map<string, Token | Root> | undefined;
}

export interface AuthenticatorOptions {
  /** The root token, which has all permissions, as in the original registry (vers-agent-services). */
  root?: string | undefined;
  tokens: Tokens;
  sessions: Sessions;
  /** A monotonic clock in milliseconds. */
  ticks(): number;
}

export class Authenticator {
  readonly tokens: Tokens;
  readonly sessions: Sessions;
  /** Counts failures that may be guesses at the root token. */
  readonly #guesses: AuthThrottle;
  /** Counts failures with tokens that have the format of an issued token. */
  readonly #oldTokens: AuthThrottle;
  #root: Root | undefined;
  /** Revokes the anonymous principals of a registry without tokens. */
  readonly #openRevocation = newRevocation();
  /** Never aborted: principals on the unix socket are not revoked. */
  readonly #socketRevoked = newRevocation().signal;

  constructor({ root, tokens, sessions, ticks }: AuthenticatorOptions) {
    this.tokens = tokens;
    this.sessions = sessions;
    this.#guesses = new AuthThrottle(ticks);
    this.#oldTokens = new AuthThrottle(ticks, OLD_TOKEN_ALLOWANCE);
    this.#root = root === undefined ? undefined : rootOf(bufferOf(root));
  }

  /** True if clients need no token. */
  get isOpen(): boolean {
    return this.#root === undefined && !this.tokens.isClosed;
  }

  /** Number of addresses that must wait, because they have sent too many invalid tokens. */
  get throttledClients(): number {
    return new Set([...this.#guesses.lockedOutNetworks, ...this.#oldTokens.lockedOutNetworks]).size;
  }

  get hasRoot(): boolean {
    return this.#root !== undefined;
  }

  /** Replaces the root token, and revokes the principals that have authenticated with the old one. */
  replaceRoot(token: string): void {
    const before = this.#root;
    const hash = bufferOf(token);
    if (before && timingSafeEqual(before.hash, hash)) return;
    this.#root = rootOf(hash);
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
  authenticate(credentials: Credentials): Principal {
    const { authorization, address = '', isLocal, proxyHeader, certificate, session, connection = {} } = credentials;
    if (this.isOpen) {
      const name = certificate === undefined || isReserved(certificate) ? ANONYMOUS : certificate;
      return { name, scope: 'admin', isLocal, revoked: this.#openRevocation.signal };
    }
    if (authorization) return this.#authenticateHeader(authorization, address, connection);
    const ofSession = session === undefined ? undefined : this.#authenticateSession(session, address);
    if (ofSession) return ofSession;
    if (isLocal) return { name: SOCKET_NAME, scope: 'admin', revoked: this.#socketRevoked };
    const token = this.#tokenOfCertificate(certificate);
    if (token) return this.#authenticateToken(token, address);
    if (certificate !== undefined) {
      throw unauthorized(
        `Unauthorized — there is no token with the name of the certificate, "${certificate}"`,
        TOKEN_HINT,
      );
    }
    if (session !== undefined) {
      throw unauthorized('Unauthorized — the session has ended', 'log in again: vreg ui');
    }
    const hint =
      proxyHeader === undefined ? TOKEN_HINT : `the header "${proxyHeader}" may come from a proxy: ${TOKEN_HINT}`;
    throw unauthorized('Unauthorized — missing Authorization header', hint);
  }

  /**
   * Creates a magic link with the rights of a principal.
   * @returns the secret, and its expiry in milliseconds since the epoch
   * @throws VregError FORBIDDEN if the principal has no token, or has authenticated with a session
   */
  createLink(principal: Principal): { secret: string; expiresAt: number } {
    const tokenHash = this.#hashOfToken(principal);
    if (tokenHash !== undefined && !principal.session) return this.sessions.createLink(principal, tokenHash);
    throw new VregError('FORBIDDEN', 'a magic link requires a token, whose rights the session gets', {
      field: 'authorization',
      hint: 'send "Authorization: Bearer TOKEN"; create a token with vreg token create NAME --scope read',
    });
  }

  #hashOfToken({ name, token }: Principal): string | undefined {
    return token?.stored.hash ?? (name === ROOT_NAME ? this.#root?.hash.toString() : undefined);
  }

  /** @returns undefined if the session has ended, so that other credentials may be used. @throws VregError UNAUTHORIZED */
  #authenticateSession(secret: string, address: string): Principal | undefined {
    const session = this.sessions.find(secret);
    if (!session) return undefined;
    const token = session.name === ROOT_NAME ? this.#root?.principal : this.#named(session.name);
    const tokenHash = token && this.#hashOfToken(token);
    if (!token || tokenHash === undefined || !session.isBoundTo(tokenHash, secret)) {
      this.sessions.logOut(session.key);
      return undefined;
    }
    if (token.token) this.#recordUse(token.token, address);
    return session.principalFrom(token);
  }

  #named(name: string): Principal | undefined {
    const token = this.tokens.named(name);
    return token && principalOf(token);
  }

  #tokenOfCertificate(name = ''): Token | undefined {
    // Names with a slash belong to the tokens of enrolled VMs, which a certificate must not impersonate.
    return name.includes('/') ? undefined : this.tokens.named(name);
  }

  #authenticateHeader(authorization: string, address: string, connection: Connection): Principal {
    const wait = this.#guesses.lockedOut(address);
    // The time of a request from a locked-out address must not show that its guess is a token that another client uses.
    const match = (wait === undefined ? recall(connection, authorization) : undefined) ?? this.#find(authorization);
    if (match instanceof Token) {
      const principal = this.#authenticateToken(match, address);
      remember(connection, authorization, match);
      return principal;
    }
    if (wait === undefined && match !== undefined) {
      this.#guesses.succeeded(address);
      remember(connection, authorization, match);
      return match.principal;
    }
    const secret = secretOf(authorization);
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
    this.#recordUse(token, address);
    return principalOf(token);
  }

  /** @throws VregError UNAUTHORIZED if the token has expired */
  #recordUse(token: Token, address: string): void {
    this.tokens.assertNotExpired(token);
    this.tokens.used(token, address || undefined);
  }

  #find(authorization: string): Token | Root | undefined {
    const secret = secretOf(authorization);
    if (secret === undefined) return undefined;
    const hash = hashOf(secret);
    const isRoot = this.#root !== undefined && timingSafeEqual(Buffer.from(hash), this.#root.hash);
    return this.tokens.find(secret, hash) ?? (isRoot ? this.#root : undefined);
  }
}

/** The token of a header that was accepted on this connection, unless it has been revoked or replaced. */
function recall(connection: Connection, authorization: string): Token | Root | undefined {
  const known = connection[RECALLED]?.get(authorization);
  if (known === undefined || !signalOf(known).aborted) return known;
  connection[RECALLED] = undefined;
  return undefined;
}

function remember(connection: Connection, authorization: string, token: Token | Root): void {
  const recalled = connection[RECALLED];
  if (recalled === undefined) connection[RECALLED] = new Map([[authorization, token]]);
  else if (!recalled.has(authorization)) {
    recalled.clear();
    recalled.set(authorization, token);
  }
}

function rootOf(hash: Buffer): Root {
  const revocation = newRevocation();
  return { hash, revocation, principal: { name: ROOT_NAME, scope: 'admin', revoked: revocation.signal } };
}

function signalOf(token: Token | Root): AbortSignal {
  return token instanceof Token ? token.revoked : token.revocation.signal;
}

function principalOf(token: Token): Principal {
  const { name, scope, restriction, revoked } = token;
  return { name, scope, restriction, token, revoked };
}

function secretOf(authorization: string): string | undefined {
  return /^Bearer\s+(.+)$/i.exec(authorization)?.[1];
}

/** The hash of a token. It has the same length for every token, as `timingSafeEqual` requires. */
function bufferOf(token: string): Buffer {
  return Buffer.from(hashOf(token));
}
