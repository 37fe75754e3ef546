/**
 * Limits failed authentication per client address. Issued tokens have 256 random bits and cannot be guessed; only the root
 * token, VERS_AUTH_TOKEN, is chosen by people. An invalid token with the format of an issued token is probably the old token of
 * an agent that is about to enrol again, so such failures have a separate, larger allowance.
 *
 * An address that has sent the correct token is not locked out. It may be a proxy in front of an entire fleet, which one
 * attacker could otherwise lock out. With `--trust-proxy`, the clients behind a proxy are counted separately.
 */

export interface Allowance {
  /** Number of consecutive failures before an address must wait. */
  burst: number;
  /** Milliseconds after which one more failure is allowed. */
  pause: number;
}

/** The allowance for tokens that may be guesses. After the burst, ten guesses per minute are too few to guess a token. */
const GUESS_ALLOWANCE: Allowance = { burst: 60, pause: 6000 };
/** The allowance for old issued tokens: ten times as large, because an entire fleet behind one address may enrol again. */
export const OLD_TOKEN_ALLOWANCE: Allowance = { burst: 600, pause: 600 };
/** Milliseconds for which an address is trusted after it has sent the correct token: one hour. */
const TRUSTED_FOR = 3_600_000;
/** Maximum number of addresses per map: a few megabytes. The oldest are evicted first. */
const MAX_ADDRESSES = 10_000;

export class AuthThrottle {
  /** Keyed by network: the time at which all failures of the network are forgiven. */
  readonly #debts = new Map<string, number>();
  /** Keyed by network: the time of its last success. */
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
    return this.#lockedOut(networkOf(address));
  }

  #lockedOut(network: string): number | undefined {
    const wait = this.#wait(network);
    if (wait <= 0) return undefined;
    const trusted = this.#trusted.get(network);
    return trusted !== undefined && this.#now() - trusted < TRUSTED_FOR ? undefined : seconds(wait);
  }

  /** The networks for which {@link lockedOut} returns a time. */
  get lockedOutNetworks(): string[] {
    return [...this.#debts.keys()].filter((network) => this.#lockedOut(network) !== undefined);
  }

  /** Counts an invalid token. @returns seconds to wait if the allowance is used up */
  failed(address: string): number | undefined {
    const network = networkOf(address);
    const wait = this.#wait(network);
    if (wait > 0) return seconds(wait);
    remember(this.#debts, network, Math.max(this.#debts.get(network) ?? 0, this.#now()) + this.#allowance.pause);
    return undefined;
  }

  /** Records a valid token. */
  succeeded(address: string): void {
    const network = networkOf(address);
    const before = this.#trusted.get(network);
    const now = this.#now();
    // Renew at most twice per period instead of with every request.
    if (before === undefined || now - before > TRUSTED_FOR / 2) remember(this.#trusted, network, now);
  }

  #wait(network: string): number {
    const debt = this.#debts.get(network);
    if (debt === undefined) return 0;
    const { burst, pause } = this.#allowance;
    return debt - this.#now() - (burst - 1) * pause;
  }
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}

function remember(map: Map<string, number>, key: string, value: number): void {
  // Delete first, so that the map remains in the order of the last change.
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_ADDRESSES) map.delete(map.keys().next().value!);
}

/** An IPv4 address, or the /64 network of an IPv6 address, because each customer has at least a /64 (RFC 6177). */
function networkOf(address: string): string {
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
