/**
 * The session of a replica: a key with a lease, whose value is the fence of its transactions. Each transaction compares the
 * fence, and a new fence makes all older transactions fail, also those that a frozen member executes later. Without it, 24 % of
 * timed-out creates came back after an acknowledged delete.
 */
import { kernelRandomHex } from '../../process/random.ts';
import type { EtcdClient } from './etcd-client.ts';
import { EtcdError } from './etcd-error.ts';

/** Seconds that the key remains after a replica has died: long enough for an election and a frozen member. */
const DEFAULT_TTL = 30;
/** Renewals per time to live, so that two may fail. */
const RENEWALS = 3;
/** Bytes of the random part of a fence. It must never occur twice. */
const NONCE_BYTES = 16;

/**
 * `opening`: it has no key yet; `open`: it has one; `lost`: its lease has expired, for example because the replica was stopped,
 * and it opens again; `closed`: for good.
 */
export type SessionState = 'opening' | 'open' | 'lost' | 'closed';

export interface SessionOptions {
  /** Unique to this run of this replica. It must be in the view of the informer that resolves its transactions. */
  key: string;
  /** Fields beside the nonce, for other replicas to read. */
  details?: Record<string, unknown>;
  /** Seconds. */
  ttl?: number;
  /** Called when the state changes. */
  onChange?: ((state: SessionState) => void) | undefined;
  /** Called with a sentence when a request fails. */
  onProblem?: ((text: string) => void) | undefined;
}

export class ReplicaSession {
  readonly key: string;
  readonly #client: EtcdClient;
  readonly #options: SessionOptions;
  readonly #ttl: number;
  #state: SessionState = 'opening';
  #lease: bigint | undefined;
  #fence = '';
  /** Revision of the put of the current fence. */
  #revision = 0;
  /** The put of a new fence; all who need one wait for it. */
  #replacement: Promise<void> | undefined;
  /** True if transactions with the current fence may be executed later, so that the fence must be replaced first. */
  #isSuspect = false;
  #details: Record<string, unknown>;
  #timer: NodeJS.Timeout | undefined;

  constructor(client: EtcdClient, options: SessionOptions) {
    this.#client = client;
    this.#options = options;
    this.#details = options.details ?? {};
    this.#ttl = options.ttl ?? DEFAULT_TTL;
    this.key = options.key;
  }

  get state(): SessionState {
    return this.#state;
  }

  /** The value of the key, which transactions compare. */
  get fence(): string {
    return this.#fence;
  }

  get lease(): bigint {
    return this.#lease ?? 0n;
  }

  /** Writes the key. @throws EtcdError; if etcd is away, `unavailable` */
  async open(): Promise<void> {
    this.#timer = setInterval(() => void this.#renew(), (this.#ttl * 1000) / RENEWALS);
    await this.#replace();
  }

  /**
   * The fence for a new transaction. Waits for one if the current fence must be replaced.
   * @throws EtcdError unavailable, no-space
   */
  async current(timeoutMs: number): Promise<string> {
    if (this.#state !== 'open' || this.#isSuspect) await within(timeoutMs, this.#replace());
    else if (this.#replacement) await within(timeoutMs, this.#replacement);
    return this.#fence;
  }

  /**
   * Makes sure that transactions with this fence can no longer be executed.
   * @returns a revision after which none of them can be
   * @throws EtcdError unavailable, no-space; the fence is replaced before the next transaction then
   */
  async invalidate(fence: string, timeoutMs: number): Promise<number> {
    if (fence === this.#fence) {
      this.#isSuspect = true;
      await within(timeoutMs, this.#replace());
    }
    return this.#revision;
  }

  /** The key of this session is absent, or has another value than the fence of a transaction that was sent. */
  fenceFailed(fence: string, isAbsent: boolean): void {
    if (fence !== this.#fence || this.#state === 'closed') return;
    this.#isSuspect = true;
    if (isAbsent) this.#lose();
  }

  /** Adds fields for other replicas to read. After a failure, they are written with the next fence. */
  publish(details: Record<string, unknown>): void {
    this.#details = { ...this.#details, ...details };
    this.#isSuspect = true;
    // A put in progress may have the earlier fields.
    const previous = this.#replacement?.catch(() => {}) ?? Promise.resolve();
    previous.then(() => this.#replace()).catch((error) => this.#report('could not publish its URL yet', error));
  }

  /** Removes the key and its lease. Unfenced keys with the lease are removed, too. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#setState('closed');
    if (this.#lease === undefined) return;
    try {
      await this.#client.revokeLease(this.#lease);
    } catch (error) {
      this.#report('could not revoke its lease, which expires by itself', error);
    }
  }

  /** Puts a new fence. Concurrent calls share the put. */
  #replace(): Promise<void> {
    this.#replacement ??= this.#putFence().finally(() => {
      this.#replacement = undefined;
    });
    return this.#replacement;
  }

  async #putFence(): Promise<void> {
    for (;;) {
      if (this.#state === 'closed') throw new EtcdError('unavailable', 'the session is closed');
      // A fence whose put is ambiguous is never used: a frozen member may write it after the next one.
      const fence = JSON.stringify({ nonce: kernelRandomHex(NONCE_BYTES), ...this.#details });
      try {
        this.#lease ??= await this.#client.grantLease(this.#ttl);
        const lease = this.#lease;
        const { header } = await this.#client.put(this.key, fence, lease);
        // Meanwhile, another transaction with the last fence may have failed because the last lease has expired.
        this.#lease = lease;
        this.#fence = fence;
        this.#revision = header.revision;
        this.#isSuspect = false;
        this.#setState('open');
        return;
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        if (error.kind === 'not-found') this.#lose();
        else if (error.kind !== 'unknown') throw error;
      }
    }
  }

  /** The lease has expired. Transactions with the last fence fail, because the key is absent. */
  #lose(): void {
    this.#lease = undefined;
    if (this.#state === 'open') this.#setState('lost');
  }

  async #renew(): Promise<void> {
    try {
      const isRenewed = this.#lease !== undefined && (await this.#client.renewLease(this.#lease)) > 0;
      if (isRenewed && !this.#isSuspect) return;
      if (isRenewed) return await this.#replace();
      if (this.#state === 'closed') return;
      this.#lose();
      await this.#replace();
    } catch (error) {
      this.#report('could not renew its lease', error);
    }
  }

  #report(what: string, error: unknown): void {
    this.#options.onProblem?.(`the session ${what}: ${(error as Error).message}`);
  }

  #setState(state: SessionState): void {
    if (this.#state === state || this.#state === 'closed') return;
    this.#state = state;
    this.#options.onChange?.(state);
  }
}

/** Waits for a shared promise, which continues if the time is up. */
async function within(timeoutMs: number, shared: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new EtcdError('unavailable', 'the session was not renewed in time', { isTimeout: true });
    timer = setTimeout(() => reject(error), Math.max(1, timeoutMs));
  });
  try {
    await Promise.race([shared, late]);
  } finally {
    clearTimeout(timer);
    shared.catch(() => {});
  }
}
