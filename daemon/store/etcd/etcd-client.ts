/**
 * A client of an etcd cluster. It chooses the member, keeps the token of its user, and sends a request again only if that is
 * safe: a read, or a write that no member has received. Any other failure of a write has the kind `unknown`, and
 * `transaction.ts` resolves it.
 */
import { Endpoints } from './endpoints.ts';
import { EtcdError } from './etcd-error.ts';
import type { EtcdTarget } from './etcd-url.ts';
import { type Connection, connectTo, type Duplex, type DuplexCallbacks, loadGrpc } from './grpc.ts';
import {
  type Alarm,
  type Compare,
  type Header,
  METHODS,
  type Member,
  type Method,
  type Op,
  type RangeRequest,
  type RangeResponse,
  STREAMS,
  type StatusResponse,
  type TxnResponse,
  type WatchRequest,
  type WatchResponse,
} from './messages.ts';

/**
 * Milliseconds until an attempt fails. A member whose leader has died answers "request timed out" only after several seconds,
 * and an election takes 1 to 2 s.
 */
const ATTEMPT_TIMEOUT = 1500;
/** Milliseconds until a request fails that may be sent to several members: three attempts. */
const REQUEST_TIMEOUT = 3 * ATTEMPT_TIMEOUT;
/** Milliseconds until an authentication fails: etcd computes a slow hash of the password. */
const AUTHENTICATION_TIMEOUT = 5000;
/** Milliseconds until an administrative request fails. A defragmentation blocks the member for as long as it takes. */
const ADMIN_TIMEOUT = 60_000;
/** Oldest version whose watches have progress requests and fragments. */
const OLDEST_VERSION = [3, 4] as const;
/** Attempts with a new token: a member that lags behind does not know it at once. */
const TOKEN_ATTEMPTS = 3;

export interface CallOptions {
  /** Milliseconds until the request fails, over all attempts. */
  timeoutMs?: number | undefined;
  /** Milliseconds until one attempt fails. */
  attemptMs?: number | undefined;
  /** Calls this member only, once. */
  endpoint?: string | undefined;
}

export class EtcdClient {
  readonly endpoints: Endpoints;
  readonly #connections: ReadonlyMap<string, Connection>;
  readonly #credentials: EtcdTarget['credentials'];
  readonly #now: () => number;
  #token: string | undefined;
  #authentication: Promise<void> | undefined;
  #isClosed = false;

  /**
   * Loads gRPC. The first request connects.
   * @throws VregError STORE_UNUSABLE if gRPC is not installed, or the certificates cannot be used
   */
  static async open(
    target: EtcdTarget,
    { now, random }: { now?: () => number; random?: () => number } = {},
  ): Promise<EtcdClient> {
    const grpc = await loadGrpc();
    return new EtcdClient(connectTo(grpc, target), target.credentials, now, random);
  }

  private constructor(
    connections: readonly Connection[],
    credentials: EtcdTarget['credentials'],
    now: () => number = () => performance.now(),
    random?: () => number,
  ) {
    this.#connections = new Map(connections.map((connection) => [connection.endpoint, connection]));
    this.endpoints = new Endpoints([...this.#connections.keys()], now, random);
    this.#credentials = credentials;
    this.#now = now;
  }

  /** Reads keys; linearizable unless the request says otherwise. @throws EtcdError */
  range(request: RangeRequest, options?: CallOptions): Promise<RangeResponse> {
    return this.#request(METHODS.range, request, options);
  }

  /**
   * Executes `success` if all compares hold, otherwise `failure`, in one transaction.
   * @throws EtcdError; of kind `unknown` if it may have been executed, or may still be
   */
  txn(
    compares: readonly Compare[],
    success: readonly Op[],
    failure: readonly Op[] = [],
    options?: CallOptions,
  ): Promise<TxnResponse> {
    return this.#request(METHODS.txn, { compares, success, failure }, options);
  }

  /** @throws EtcdError as {@link txn}; `not-found` if the lease does not exist */
  put(key: string, value: string | Uint8Array, lease?: bigint, options?: CallOptions): Promise<{ header: Header }> {
    return this.#request(METHODS.put, { key, value, ...(lease === undefined ? {} : { lease }) }, options);
  }

  /** @throws EtcdError as {@link txn} */
  delete(key: string, rangeEnd?: string, options?: CallOptions): Promise<{ header: Header; deleted: number }> {
    return this.#request(METHODS.delete, { key, ...(rangeEnd === undefined ? {} : { rangeEnd }) }, options);
  }

  /** @param ttl seconds @returns its id */
  async grantLease(ttl: number, options?: CallOptions): Promise<bigint> {
    return (await this.#request(METHODS.grantLease, ttl, options)).id;
  }

  /** Renews a lease once. @returns its remaining time in seconds; 0 if it does not exist */
  async renewLease(id: bigint, { timeoutMs = REQUEST_TIMEOUT }: CallOptions = {}): Promise<number> {
    const attempt = (connection: Connection, ms: number): Promise<number> =>
      new Promise((resolve, reject) => {
        const finish = (act: () => void): void => {
          clearTimeout(timer);
          stream.cancel();
          act();
        };
        const stream = connection.stream(STREAMS.keepAlive, this.#token, {
          onResponse: ({ ttl }) => finish(() => resolve(ttl)),
          onEnd: (error) => finish(() => reject(error)),
        });
        const late = new EtcdError('unavailable', `${connection.endpoint}: no answer`, {
          endpoint: connection.endpoint,
          isTimeout: true,
        });
        const timer = setTimeout(() => finish(() => reject(late)), ms);
        stream.send(id);
      });
    return this.#attempts(attempt, { timeoutMs });
  }

  /** Removes a lease, and with it all keys that have it. */
  async revokeLease(id: bigint, options?: CallOptions): Promise<void> {
    await this.#request(METHODS.revokeLease, id, options);
  }

  /**
   * Opens a stream for watches on one member.
   * @param endpoint from `endpoints.choose()`
   */
  async watch(
    endpoint: string,
    callbacks: DuplexCallbacks<WatchResponse>,
  ): Promise<Duplex<WatchRequest, WatchResponse>> {
    await this.#authenticate();
    return this.#connection(endpoint).stream(STREAMS.watch, this.#token, callbacks);
  }

  /** Gets a new token before the next request, because a member refused the current one. */
  forgetToken(): void {
    this.#token = undefined;
  }

  status(endpoint: string): Promise<StatusResponse> {
    return this.#request(METHODS.status, undefined, { endpoint });
  }

  members(): Promise<Member[]> {
    return this.#request(METHODS.members, undefined);
  }

  /** The active alarms of all members. */
  alarms(): Promise<Alarm[]> {
    return this.#request(METHODS.alarms, undefined);
  }

  async disarm(alarm: Alarm): Promise<void> {
    await this.#request(METHODS.disarm, alarm);
  }

  /** Removes the history before the revision, for all users of the cluster. */
  async compact(revision: number): Promise<void> {
    await this.#request(METHODS.compact, revision, { attemptMs: ADMIN_TIMEOUT, timeoutMs: ADMIN_TIMEOUT });
  }

  /** Returns the free pages of a member's database to its disk. The member serves nothing meanwhile. */
  async defragment(endpoint: string): Promise<void> {
    await this.#request(METHODS.defragment, undefined, { endpoint, attemptMs: ADMIN_TIMEOUT });
  }

  /**
   * Checks that the server has what the store needs: the version, and transactions with several compares, which kine lacks.
   * @param key any key that the user may read
   * @throws EtcdError unsupported, denied, unavailable
   */
  async checkServer(key: string): Promise<void> {
    const isAbsentOrNot: Compare[] = [
      { key, version: 0, result: '!=' },
      { key, createRevision: 0, result: '!=' },
    ];
    const read: Op[] = [{ type: 'range', key, countOnly: true }];
    await this.#repeatable(() => this.txn(isAbsentOrNot, read, read));
    const status = await this.#request(METHODS.status, undefined).catch((error: EtcdError) => {
      // Only servers newer than 3.4 tell their status to the user root alone.
      if (error.kind === 'denied') return undefined;
      throw error;
    });
    if (status && !isAtLeast(status.version, OLDEST_VERSION))
      throw new EtcdError(
        'unsupported',
        `the server has version ${status.version || '(none)'} instead of 3.4 or newer`,
      );
  }

  /** Repeats a transaction that only reads, until the time is up. */
  async #repeatable<T>(read: () => Promise<T>): Promise<T> {
    const end = this.#now() + REQUEST_TIMEOUT;
    for (;;) {
      try {
        return await read();
      } catch (error) {
        if (!(error instanceof EtcdError) || error.kind !== 'unknown' || this.#now() >= end) throw error;
      }
    }
  }

  close(): void {
    this.#isClosed = true;
    for (const connection of this.#connections.values()) connection.close();
  }

  #connection(endpoint: string): Connection {
    const connection = this.#connections.get(endpoint);
    if (!connection) throw new Error(`${endpoint} is no member in the URL`);
    return connection;
  }

  #request<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    options: CallOptions = {},
  ): Promise<Response> {
    return this.#attempts((connection, ms) => connection.call(method, request, this.#token, ms), options);
  }

  /** Calls members until one answers, the time is up, or a failure must be resolved by the caller. */
  async #attempts<Response>(
    attempt: (connection: Connection, timeoutMs: number) => Promise<Response>,
    { timeoutMs = REQUEST_TIMEOUT, attemptMs = ATTEMPT_TIMEOUT, endpoint: only }: CallOptions,
  ): Promise<Response> {
    const end = this.#now() + (only === undefined ? timeoutMs : attemptMs);
    let tokens = 0;
    let last: EtcdError | undefined;
    for (;;) {
      await this.endpoints.pauseIfAllFailed();
      if (this.#isClosed) throw new EtcdError('unavailable', 'the client is closed');
      if (this.#now() >= end)
        throw last ?? new EtcdError('unavailable', 'no member answered in time', { isTimeout: true });
      const endpoint = only ?? this.endpoints.choose();
      try {
        await this.#authenticate();
        const remaining = Math.max(1, Math.min(attemptMs, end - this.#now()));
        const response = await attempt(this.#connection(endpoint), remaining);
        this.endpoints.succeeded(endpoint);
        return response;
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        const { kind } = error;
        last = error;
        if (kind === 'unavailable' || kind === 'unknown') {
          this.endpoints.failed(endpoint, error.isTimeout);
        } else {
          this.endpoints.succeeded(endpoint);
        }
        if (kind === 'unauthenticated' && this.#credentials && ++tokens < TOKEN_ATTEMPTS) {
          this.#token = undefined;
          continue;
        }
        if (kind !== 'unavailable' || only !== undefined || this.#now() >= end) throw error;
      }
    }
  }

  /** Gets a token if the client has a user. Concurrent requests share the attempt. */
  async #authenticate(): Promise<void> {
    if (!this.#credentials || this.#token !== undefined) return;
    this.#authentication ??= this.#getToken(this.#credentials).finally(() => {
      this.#authentication = undefined;
    });
    await this.#authentication;
  }

  async #getToken(credentials: { user: string; password: string }): Promise<void> {
    const endpoint = this.endpoints.choose();
    const connection = this.#connection(endpoint);
    this.#token = await connection.call(METHODS.authenticate, credentials, undefined, AUTHENTICATION_TIMEOUT);
  }
}

/** @param version such as `3.4.23` @param oldest major and minor */
export function isAtLeast(version: string, oldest: readonly [major: number, minor: number]): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
}
