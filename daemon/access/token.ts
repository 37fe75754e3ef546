import { setMaxListeners } from 'node:events';
import type { Scope, TokenInfo } from '../../src/protocol/token.ts';
import type { TokenRestriction } from '../registry/preconditions.ts';
import type { StoredToken } from './stored-token.ts';
import { expired, unauthorized } from './token-errors.ts';

/** Milliseconds between two saves of a token's last use, so that a busy token does not cause a write per request. */
const USE_INTERVAL = 60_000;

export class Token {
  #stored!: StoredToken;
  #restriction: TokenRestriction | undefined;
  /** Milliseconds since the epoch; NaN if the token was never used. */
  #usedAt = Number.NaN;
  readonly #now: () => number;
  /** Milliseconds since the epoch. */
  readonly #expiresAt: number;
  readonly #revocation = newRevocation();

  /** @param now wall clock, milliseconds since the epoch */
  constructor(stored: StoredToken, now: () => number) {
    this.#set(stored);
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
    return this.#restriction;
  }

  get stored(): StoredToken {
    return this.#stored;
  }

  get info(): TokenInfo {
    const { hash: _hash, created: _created, enrolledFrom: _from, hasExpired: _expired, ...info } = this.#stored;
    return info;
  }

  /** Aborted when the token is revoked or expires. The abort reason is the error with which to respond. */
  get revoked(): AbortSignal {
    return this.#revocation.signal;
  }

  revoke(): void {
    this.#revocation.abort(unauthorized(`Unauthorized — the token "${this.name}" was revoked`, 'use another token'));
  }

  isExpired(): boolean {
    return this.#stored.hasExpired === true || this.#expiresAt <= this.#now();
  }

  /**
   * Aborts {@link revoked} once the token has expired. It stays expired if the wall clock is set back.
   * @returns true if the expiry must be saved, because it was not known before
   */
  checkExpiry(): boolean {
    if (!this.isExpired()) return false;
    this.#revocation.abort(expired(this.info));
    if (this.#stored.hasExpired) return false;
    this.#stored = { ...this.#stored, hasExpired: true };
    return true;
  }

  /** @param created the new revision of the VM's registration */
  moveTo(created: number): void {
    this.#set({ ...this.#stored, created });
  }

  /** Replaces what is stored about this token. @returns false if it is another token with the same name */
  update(stored: StoredToken): boolean {
    const isSame = stored.hash === this.#stored.hash;
    if (isSame) this.#set(stored);
    return isSame;
  }

  /** Records a use. @returns true if it must be saved: at most once per {@link USE_INTERVAL} */
  use(from: string | undefined): boolean {
    const now = this.#now();
    if (now - this.#usedAt < USE_INTERVAL) return false;
    const { lastUsedFrom: _from, ...stored } = this.#stored;
    this.#set({ ...stored, lastUsedAt: new Date(now).toISOString(), ...(from ? { lastUsedFrom: from } : {}) });
    return true;
  }

  /** Also reads the fields that each request needs. */
  #set(stored: StoredToken): void {
    this.#stored = stored;
    this.#restriction = restrictionOf(stored);
    this.#usedAt = Date.parse(stored.lastUsedAt ?? '');
  }
}

function restrictionOf({ vm, role, created }: StoredToken): TokenRestriction | undefined {
  if (vm === undefined && role === undefined) return undefined;
  return {
    ...(vm === undefined ? {} : { vm }),
    ...(role === undefined ? {} : { role }),
    ...(created === undefined ? {} : { created }),
  };
}

/** A controller whose signal may have any number of listeners, without Node's warning about a leak. */
export function newRevocation(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
