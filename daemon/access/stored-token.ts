/** The stored form of a token, which contains a hash of its secret and never the secret. */
import { hash } from 'node:crypto';
import { TOKEN_TEXT, type TokenInfo } from '../../src/protocol/token.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { RecordChange } from '../store/store.ts';

/** Number of random bytes in a token: 256 bits cannot be guessed, so these tokens need no throttle. */
const SECRET_BYTES = 32;
/** Prefix of every token, by which people and secret scanners recognize a leaked one. */
const PREFIX = 'vreg_';
/** The format of a token that the registry has issued. */
export const TOKEN_FORM = new RegExp(`^${TOKEN_TEXT}$`);

export interface StoredToken extends TokenInfo {
  /** SHA-256 of the secret in hex. A secret of 256 random bits needs neither a salt nor a slow hash. */
  hash: string;
  /** Revision of the enrolled VM's registration. The token is not valid for another registration. */
  created?: number;
  /** Address from which the VM enrolled. */
  enrolledFrom?: string;
  /** The token has expired. It stays expired even if the wall clock is set back. */
  hasExpired?: true;
}

export function newToken(info: Omit<StoredToken, 'hash'>): { secret: string; stored: StoredToken } {
  const secret = PREFIX + Buffer.from(kernelRandomHex(SECRET_BYTES), 'hex').toString('base64url');
  return { secret, stored: { ...info, hash: hashOf(secret) } };
}

/** SHA-256 in hexadecimal. */
export function hashOf(secret: string): string {
  return hash('sha256', secret, 'hex');
}

/** Data dirs from before the first release have `bornOf` instead of `enrolledBy`. */
export function parseStored(body: string): StoredToken {
  const { bornOf, ...stored } = JSON.parse(body) as StoredToken & { bornOf?: string };
  return bornOf === undefined ? stored : { ...stored, enrolledBy: bornOf };
}

export function recordOf(stored: StoredToken): RecordChange {
  return { kind: 'token', key: stored.name, body: JSON.stringify(stored) };
}

export function removalOf(name: string): RecordChange {
  return { kind: 'token', key: name, body: undefined };
}
