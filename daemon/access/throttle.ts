/**
 * Limits failed authentication per client address. A token that the registry has issued has 256 bits and is always looked
 * up; only the root token, VERS_AUTH_TOKEN, is chosen by people and could be guessed. A wrong token in the form of an issued
 * one is more likely an old token of an agent that is about to enrol again, so it has a separate, larger allowance.
 *
 * An address that has sent the right token is not locked out. It may be a proxy in front of a whole fleet, and a single
 * stranger could lock that fleet out. With `--trust-proxy` the clients behind a proxy are counted separately.
 */

export interface Allowance {
  /** Failures in a row before an address must wait. */
  burst: number;
  /** Milliseconds after which one more failure is allowed. */
  pause: number;
}

/** The allowance for tokens that may be guesses. Ten guesses per minute after the burst do not find a chosen token. */
const GUESS_ALLOWANCE: Allowance = { burst: 60, pause: 6000 };
/** The allowance for old issued tokens: ten times as large, because a whole fleet behind one address may enrol again. */
export const OLD_TOKEN_ALLOWANCE: Allowance = { burst: 600, pause: 600 };
/** Milliseconds for which an address stays trusted after it has sent the right token: one hour. */
const TRUSTED_FOR = 3_600_000;
/** Addresses that are remembered per map: a few megabytes. The oldest is evicted first. */
const MAX_ADDRESSES = 10_000;

export class AuthThrottle {
  /** By network: the time at which all its failures are forgiven. */
  readonly #debts = new Map<string, number>();
  /** By network: the time of its last success. */
  readonly #trusted = new Map<string, number>();
  readonly #now: () => number;
  readonly #allowance: Allowance;

  /** @param now a monotonic clock in milliseconds */
  constructor(now: () => number, allowance = GUESS_ALLOWANCE) {
    this.#now = now;
    this.#allowance = allowance;
  }

  /** @returns seconds for which the root token is not checked for this address; undefined if it is checked */
  lockedOut(address: string): number | undefined {
    const wait = this.#wait(networkOf(address));
    if (wait <= 0) return undefined;
    const trusted = this.#trusted.get(networkOf(address));
    return trusted !== undefined && this.#now() - trusted < TRUSTED_FOR ? undefined : seconds(wait);
  }

  /** Counts a wrong token. @returns seconds to wait if the allowance is used up */
  failed(address: string): number | undefined {
    const network = networkOf(address);
    const wait = this.#wait(network);
    if (wait > 0) return seconds(wait);
    remember(this.#debts, network, Math.max(this.#debts.get(network) ?? 0, this.#now()) + this.#allowance.pause);
    return undefined;
  }

  /** Counts a right token. */
  succeeded(address: string): void {
    const network = networkOf(address);
    const before = this.#trusted.get(network);
    const now = this.#now();
    // Renewed at most twice per period, not with every request.
    if (before === undefined || now - before > TRUSTED_FOR / 2) remember(this.#trusted, network, now);
  }

  #wait(network: string): number {
    const { burst, pause } = this.#allowance;
    return (this.#debts.get(network) ?? 0) - this.#now() - (burst - 1) * pause;
  }
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}

function remember(map: Map<string, number>, key: string, value: number): void {
  // Delete first, so that the map stays in the order of the last change.
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_ADDRESSES) map.delete(map.keys().next().value!);
}

/** An IPv4 address, or the /64 network of an IPv6 address: one customer has at least a /64 (RFC 6177). */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address;
  const [, mapped] = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address) ?? [];
  if (mapped !== undefined) return mapped;
  const [head = '', tail] = address.split('%', 1)[0]!.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros =
    tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0');
  return [...left, ...zeros, ...right].slice(0, 4).join(':');
}
