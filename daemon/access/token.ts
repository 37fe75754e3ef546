/**
 * One token. Of its secret only a hash is kept: 256 bits from the kernel need no salt and no slow hash, since nobody guesses
 * them.
 */
import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
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

/** What says that somebody shall go. Each answer that is held for them listens to it. */
export function newEnding(): AbortController {
  const ending = new AbortController();
  setMaxListeners(0, ending.signal);
  return ending;
}

export class Token {
  #stored: StoredToken;
  readonly #ending = newEnding();

  constructor(stored: StoredToken) {
    this.#stored = stored;
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

  /** Aborted when it is revoked. */
  get revoked(): AbortSignal {
    return this.#ending.signal;
  }

  get info(): TokenInfo {
    const { hash: _hash, created: _created, enrolledFrom: _from, ...info } = this.#stored;
    return info;
  }

  isExpired(now: number): boolean {
    return this.timeLeft(now) <= 0;
  }

  /** Milliseconds until it expires; infinite when it does not. */
  timeLeft(now: number): number {
    const { expiresAt } = this.#stored;
    return expiresAt === undefined ? Number.POSITIVE_INFINITY : Date.parse(expiresAt) - now;
  }

  end(): void {
    this.#ending.abort();
  }

  /** @returns true when that is worth writing down */
  used(now: number, from: string | undefined): boolean {
    const { lastUsedAt, lastUsedFrom: _from, ...stored } = this.#stored;
    if (lastUsedAt !== undefined && now - Date.parse(lastUsedAt) < USE_EVERY) return false;
    this.#stored = { ...stored, lastUsedAt: new Date(now).toISOString(), ...(from ? { lastUsedFrom: from } : {}) };
    return true;
  }
}

export function newToken(info: Omit<StoredToken, 'hash'>): { secret: string; stored: StoredToken } {
  const secret = PREFIX + Buffer.from(kernelRandomHex(SECRET_BYTES), 'hex').toString('base64url');
  return { secret, stored: { ...info, hash: hashOf(secret) } };
}

export function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
