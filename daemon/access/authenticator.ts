/** Who asks, and may they come in. What they may do there is their scope's matter. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { VregError } from '../../src/protocol/errors.ts';
import { isReserved, mayDo, type Scope } from '../../src/protocol/token.ts';
import { ANONYMOUS, type TokenRestriction } from '../registry/preconditions.ts';
import { AuthThrottle, OF_OLD_TOKENS } from './throttle.ts';
import { expired, newRevocation, TOKEN, type Token, unauthorized } from './token.ts';
import type { Tokens } from './tokens.ts';

/** How those are named who came with the one token that the daemon was started with, or by the unix socket. */
export const THE_TOKEN = 'VERS_AUTH_TOKEN';
const SOCKET = 'socket';
/** How a client sends a token. */
const TOKEN_HINT = 'send "Authorization: Bearer TOKEN" (vreg: VERS_AUTH_TOKEN or --token-file)';

/** An authenticated client. */
export interface Principal {
  /** Name of its token, `VERS_AUTH_TOKEN`, `socket`, or `anonymous`. */
  name: string;
  scope: Scope;
  /** VMs that the principal may change, or read with the scope `read`; undefined means all. */
  restriction?: TokenRestriction | undefined;
  token?: Token;
  /** Connected through the unix socket. */
  isLocal?: boolean;
  /**
   * Aborted when the principal's token is revoked, replaced or expires. Whatever is still open for the principal ends then:
   * event streams, long polls, long lists, backups, request bodies. The reason is the VregError to respond with.
   */
  revoked: AbortSignal;
}

/** Whether the principal's token has neither been revoked nor expired since the principal was authenticated. */
export function isActive({ token, revoked }: Principal): boolean {
  return !revoked.aborted && !token?.isExpired();
}

/** @throws VregError UNAUTHORIZED unless the principal {@link isActive} */
export function assertActive({ token, revoked }: Principal): void {
  revoked.throwIfAborted();
  if (token?.isExpired()) throw expired(token);
}

/** @throws VregError FORBIDDEN saying which scope would do */
export function assertScope({ name, scope }: Principal, needed: Scope): void {
  if (mayDo(scope, needed)) return;
  throw new VregError('FORBIDDEN', `the token "${name}" has the scope ${scope}; this needs ${needed}`, {
    field: 'scope',
    hint:
      scope === 'enrol'
        ? 'an enrol token registers one new VM, whose own token is in the answer: use that one'
        : `make one that may: vreg token create NAME --scope ${needed}`,
  });
}

/** Somebody at the door. */
export interface Credentials {
  /** The `Authorization` header. */
  authorization: string | undefined;
  /** The peer's address; undefined where it has none. */
  address: string | undefined;
  /** It came by the unix socket, which only the daemon's owner and root can open. */
  isLocal: boolean;
  /** Name in its certificate, which a CA of ours has signed. */
  certificate?: string | undefined;
}

export interface AuthenticatorOptions {
  /** The one token that may do everything, as the original registry has it. */
  root?: string | undefined;
  tokens: Tokens;
  /** A clock in milliseconds that never goes back. */
  ticks(): number;
}

export class Authenticator {
  readonly tokens: Tokens;
  readonly #guesses: AuthThrottle;
  readonly #old: AuthThrottle;
  #root: { digest: Buffer; revocation: AbortController } | undefined;
  /** Aborted when the first token is made. */
  readonly #open = newRevocation();
  readonly #forever = newRevocation().signal;

  constructor({ root, tokens, ticks }: AuthenticatorOptions) {
    this.tokens = tokens;
    this.#guesses = new AuthThrottle(ticks);
    this.#old = new AuthThrottle(ticks, OF_OLD_TOKENS);
    this.#root = root === undefined ? undefined : { digest: digestOf(root), revocation: newRevocation() };
  }

  /** True while nobody has to say who they are. */
  get isOpen(): boolean {
    return this.#root === undefined && !this.tokens.isClosed;
  }

  get hasRoot(): boolean {
    return this.#root !== undefined;
  }

  /** From now on another token is the one that may do everything; what was opened with the old one ends. */
  replaceRoot(token: string): void {
    const before = this.#root;
    const digest = digestOf(token);
    if (before && timingSafeEqual(before.digest, digest)) return;
    this.#root = { digest, revocation: newRevocation() };
    before?.revocation.abort(unauthorized(`Unauthorized — the token ${THE_TOKEN} was replaced`, 'use the new one'));
  }

  /** A token was made where there was none: those who came without one have to say who they are. */
  close(): void {
    this.#open.abort(unauthorized('Unauthorized — the registry requires a token now', TOKEN_HINT));
  }

  /** Name of the token that somebody comes with who is not let in: one that has expired, say. */
  nameOfRejected({
    authorization,
    certificate,
  }: Pick<Credentials, 'authorization' | 'certificate'>): string | undefined {
    if (!authorization) return this.#ofCertificate(certificate)?.name;
    const secret = secretOf(authorization);
    return secret === undefined ? undefined : this.tokens.find(secret)?.name;
  }

  /** @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS */
  authenticate({ authorization, address = '', isLocal, certificate }: Credentials): Principal {
    if (this.isOpen) {
      const name = certificate === undefined || isReserved(certificate) ? ANONYMOUS : certificate;
      return { name, scope: 'admin', isLocal, revoked: this.#open.signal };
    }
    if (authorization) return this.#authenticateHeader(authorization, address);
    if (isLocal) return { name: SOCKET, scope: 'admin', revoked: this.#forever };
    const ofCertificate = this.#ofCertificate(certificate);
    if (ofCertificate) return this.#authenticateToken(ofCertificate, address);
    if (certificate !== undefined) {
      throw unauthorized(`Unauthorized — there is no token of the certificate's name, "${certificate}"`, TOKEN_HINT);
    }
    throw unauthorized('Unauthorized — missing Authorization header', TOKEN_HINT);
  }

  #ofCertificate(name = ''): Token | undefined {
    // Names with a slash are those of enrolled VMs, which no CA was asked for.
    return name.includes('/') ? undefined : this.tokens.named(name);
  }

  #authenticateHeader(authorization: string, address: string): Principal {
    const secret = secretOf(authorization);
    const token = secret === undefined ? undefined : this.tokens.find(secret);
    if (token) return this.#authenticateToken(token, address);
    const wait = this.#guesses.lockedOut(address);
    if (wait === undefined && secret !== undefined && this.#isRoot(secret)) {
      this.#guesses.succeeded(address);
      return { name: THE_TOKEN, scope: 'admin', revoked: this.#root!.revocation.signal };
    }
    // What has the form of a token of ours is no guess at the one that somebody chose, but an old one.
    const isOld = secret !== undefined && TOKEN.test(secret);
    const tooMany = isOld ? this.#old.failed(address) : (wait ?? this.#guesses.failed(address));
    if (tooMany === undefined) {
      const others = this.tokens.isClosed ? ', or one that vreg token create has made' : '';
      throw unauthorized(
        'Unauthorized — invalid token',
        `the token must be the one that the daemon was started with${others}`,
      );
    }
    throw new VregError('TOO_MANY_REQUESTS', 'Unauthorized — too many invalid tokens came from this address', {
      field: 'authorization',
      retryAfter: tooMany,
      hint: `wait ${tooMany} s, and give the right one`,
    });
  }

  #authenticateToken(token: Token, address: string): Principal {
    token.checkExpiry();
    if (token.isExpired()) throw expired(token);
    this.tokens.used(token, address || undefined);
    return { name: token.name, scope: token.scope, restriction: token.restriction, token, revoked: token.revoked };
  }

  #isRoot(secret: string): boolean {
    return this.#root !== undefined && timingSafeEqual(digestOf(secret), this.#root.digest);
  }
}

function secretOf(authorization: string): string | undefined {
  return /^Bearer\s+(.+)$/i.exec(authorization)?.[1];
}

/** Of equal length whatever the token's, as the comparison needs it. */
function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
