/**
 * One token. Of its secret only a hash is kept: 256 bits from the kernel need no salt and no slow hash, since nobody guesses
 * them.
 */
import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { VregError } from '../../src/protocol/errors.ts';
import { type Scope, TOKEN_TEXT, type TokenInfo } from '../../src/protocol/token.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { TokenRestriction } from '../registry/preconditions.ts';

/** Bytes of a token's secret. */
const SECRET_BYTES = 32;
/** Says what it is to whoever finds one, as to programs that look for secrets in texts. */
const PREFIX = 'vreg_';
/** The form of a token. */
export const TOKEN = new RegExp(`^${TOKEN_TEXT}$`);
/** Milliseconds for which a token's last use is not written again. */
const USE_EVERY = 60_000;
/** A token as it lies in the store. */
export interface StoredToken extends TokenInfo {
  /** SHA-256 in hex. */
  hash: string;
  /** Of an enrolled VM's token: revision of the VM's registration, without which it is good for nothing. */
  created?: number;
  /** And the address from which it was enrolled. */
  enrolledFrom?: string;
}

/** A controller whose signal any number of open responses may listen to, without Node's warning about a leak. */
export function newRevocation(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}

export class Token {
  #stored: StoredToken;
  readonly #now: () => number;
  /** Milliseconds since the epoch. */
  readonly #expiresAt: number;
  #revocation = newRevocation();
  #hasExpired = false;

  /** @param now wall clock, milliseconds since the epoch */
  constructor(stored: StoredToken, now: () => number) {
    this.#stored = stored;
    this.#now = now;
    const { expiresAt } = stored;
    this.#expiresAt = expiresAt === undefined ? Number.POSITIVE_INFINITY : Date.parse(expiresAt);
  }

  get name(): string {
    return this.#stored.name;
  }

  get scope(): Scope {
    return this.#stored.scope;
  }

  get restriction(): TokenRestriction | undefined {
    const { vm, role, created } = this.#stored;
    if (vm === undefined && role === undefined) return undefined;
    return {
      ...(vm === undefined ? {} : { vm }),
      ...(role === undefined ? {} : { role }),
      ...(created === undefined ? {} : { created }),
    };
  }

  get stored(): StoredToken {
    return this.#stored;
  }

  /** Aborted when the token is revoked or expires, with the error to respond with as its reason. */
  get revoked(): AbortSignal {
    return this.#revocation.signal;
  }

  get info(): TokenInfo {
    const { hash: _hash, created: _created, enrolledFrom: _from, ...info } = this.#stored;
    return info;
  }

  isExpired(): boolean {
    return this.#expiresAt <= this.#now();
  }

  /**
   * Aborts {@link revoked} once the token has expired. If the wall clock is set back before the expiry, the token is valid
   * again and has a new signal.
   */
  checkExpiry(): void {
    const isExpired = this.isExpired();
    if (isExpired === this.#hasExpired) return;
    this.#hasExpired = isExpired;
    if (isExpired) this.#revocation.abort(expired(this));
    else this.#revocation = newRevocation();
  }

  revoke(): void {
    this.#revocation.abort(unauthorized(`Unauthorized — the token "${this.name}" was revoked`, 'use another token'));
  }

  /** Notes a use. @returns whether the record must be saved: at most once per {@link USE_EVERY} */
  used(from: string | undefined): boolean {
    const { lastUsedAt, lastUsedFrom: _from, ...stored } = this.#stored;
    const now = this.#now();
    if (lastUsedAt !== undefined && now - Date.parse(lastUsedAt) < USE_EVERY) return false;
    this.#stored = { ...stored, lastUsedAt: new Date(now).toISOString(), ...(from ? { lastUsedFrom: from } : {}) };
    return true;
  }
}

export function expired({ name, info }: Token): VregError {
  return unauthorized(
    `Unauthorized — the token "${name}" expired at ${info.expiresAt}`,
    'create a new one: vreg token create',
  );
}

export function unauthorized(message: string, hint: string): VregError {
  return new VregError('UNAUTHORIZED', message, { hint });
}

export function newToken(info: Omit<StoredToken, 'hash'>): { secret: string; stored: StoredToken } {
  const secret = PREFIX + Buffer.from(kernelRandomHex(SECRET_BYTES), 'hex').toString('base64url');
  return { secret, stored: { ...info, hash: hashOf(secret) } };
}

export function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
