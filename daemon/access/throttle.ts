/**
 * How often an address may be wrong. A token of the registry's own has 256 bits and is always looked at; it is the one that
 * somebody chose, VERS_AUTH_TOKEN, that could be guessed. What only has the form of one of the registry's own may be an old
 * one, of agents that are about to enrol anew: it has an allowance of its own, and a larger one.
 *
 * An address from which a right token has come is not locked out: behind a proxy it may be that of a whole fleet, and one
 * stranger could keep the fleet out. `--trust-proxy` tells them apart.
 */

/** Wrong tokens in a row that an address may send, and milliseconds until it may send one more. */
export interface Allowance {
  burst: number;
  pause: number;
}

const OF_GUESSES: Allowance = { burst: 60, pause: 6000 };
/** Ten times as many: a fleet behind one address may have been let in anew. */
export const OF_OLD_TOKENS: Allowance = { burst: 600, pause: 600 };
/** Milliseconds for which an address is remembered as one that somebody with a right token has. */
const GOOD_FOR = 3_600_000;
/** Addresses that are remembered: some megabytes. The one that was remembered first goes first. */
const MAX_ADDRESSES = 10_000;

export class AuthThrottle {
  /** When all will be forgiven, by address. */
  readonly #debts = new Map<string, number>();
  readonly #good = new Map<string, number>();
  readonly #now: () => number;
  readonly #allowance: Allowance;

  /** @param now a clock in milliseconds that never goes back */
  constructor(now: () => number, allowance = OF_GUESSES) {
    this.#now = now;
    this.#allowance = allowance;
  }

  /** Seconds for which a token that somebody chose is not looked at from there, if at all. */
  lockedOut(address: string): number | undefined {
    const wait = this.#wait(networkOf(address));
    if (wait <= 0) return undefined;
    const good = this.#good.get(networkOf(address));
    return good !== undefined && this.#now() - good < GOOD_FOR ? undefined : seconds(wait);
  }

  /** A wrong token came. @returns seconds to wait, when it was one too many */
  failed(address: string): number | undefined {
    const network = networkOf(address);
    const wait = this.#wait(network);
    if (wait > 0) return seconds(wait);
    remember(this.#debts, network, Math.max(this.#debts.get(network) ?? 0, this.#now()) + this.#allowance.pause);
    return undefined;
  }

  /** A right token came. */
  succeeded(address: string): void {
    const network = networkOf(address);
    const before = this.#good.get(network);
    const now = this.#now();
    // Not with each request.
    if (before === undefined || now - before > GOOD_FOR / 2) remember(this.#good, network, now);
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
  // Deleted first, so that the oldest comes first.
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_ADDRESSES) map.delete(map.keys().next().value!);
}

/** An IPv4 address, or the /64 network of an IPv6 one, which is what one customer has (RFC 6177). */
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
