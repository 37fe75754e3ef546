/**
 * Exchanges heartbeats between replicas. Each replica writes those that it has received at an interval, and learns those of the
 * others from a second watch. The last heartbeat of a VM is the latest one that any replica has received.
 */
import type { Silence } from '../../clock.ts';
import type { EtcdClient } from './etcd-client.ts';
import { EtcdError } from './etcd-error.ts';
import type { EtcdKeys } from './etcd-keys.ts';
import type { Replicas } from './etcd-view.ts';
import { decodeShard, HeartbeatShards, hashOfVm } from './heartbeat-shards.ts';
import { type Batch, Informer } from './informer.ts';
import { type Op, prefixEnd } from './messages.ts';
import type { ReplicaSession } from './replica-session.ts';

/** Limits of a transaction: etcd accepts 128 operations and 1.5 MB by default. */
const MAX_OPS = 100;
const MAX_BYTES = 700_000;
/** Milliseconds after which the heartbeats of a replica without a session are adopted by another one: three times its lease. */
const ADOPT_AFTER = 90_000;
/** Milliseconds between two checks for such replicas. */
const ADOPT_INTERVAL = 10_000;
/**
 * Intervals without a flush of a running replica, after which its heartbeats are missing. With a flush per tenth of a lease, no VM has
 * become stale by then, because its agent sends a heartbeat per third of a lease.
 */
const MISSED_FLUSHES = 3;
/** Maximum number of silences to remember. */
const MAX_SILENCES = 100;
/** Name of the key with the time of the last flush. */
export const LAST_FLUSH = 'at';

export interface ExchangeOptions {
  replica: string;
  replicas: Replicas;
  /** Milliseconds between two flushes. */
  interval: number;
  onProblem(text: string): void;
  now?: (() => number) | undefined;
}

export class HeartbeatExchange {
  readonly #client: EtcdClient;
  readonly #session: ReplicaSession;
  readonly #keys: EtcdKeys;
  readonly #options: ExchangeOptions;
  readonly #now: () => number;
  readonly #informer: Informer;
  readonly #shards = new HeartbeatShards();
  readonly #ids = new Map<string, string>();
  readonly #hashes = new Map<string, string>();
  /** Heartbeats of VMs whose registration has not arrived. */
  readonly #early = new Map<string, number>();
  /** Last heartbeats, by hash, until {@link follow}. */
  #listed: Map<string, number> | undefined = new Map();
  #heard: ((id: string, lastSeen: number) => void) | undefined;
  /** When the replicas that have written heartbeats were last seen with a session. */
  readonly #writers = new Map<string, number>();
  /** When the last flush of each running replica has arrived, in monotonic milliseconds. */
  readonly #arrivedAt = new Map<string, number>();
  /** Wall clock of the last flush of any replica. */
  #lastFlush = 0;
  #flushing: Promise<void> | undefined;
  #hasFailed = false;
  #timers: NodeJS.Timeout[] = [];

  constructor(client: EtcdClient, session: ReplicaSession, keys: EtcdKeys, options: ExchangeOptions) {
    this.#client = client;
    this.#session = session;
    this.#keys = keys;
    this.#options = options;
    this.#now = options.now ?? Date.now;
    const { onProblem } = options;
    this.#informer = new Informer(client, keys.heartbeats, { apply: (batch) => this.#receive(batch), onProblem });
  }

  /** As for {@link Informer}. */
  get age(): number {
    return this.#informer.age;
  }

  get lists(): number {
    return this.#informer.lists;
  }

  /**
   * Reads the heartbeats of all replicas. Call {@link addVm} for all VMs before.
   * @param recorded the silences that are known
   * @returns the last heartbeats, and all silences: no replica has received heartbeats since the last flush
   */
  async open(recorded: readonly Silence[]): Promise<{ seen: Map<string, number>; silences: Silence[] }> {
    await this.#informer.start();
    const seen = new Map<string, number>();
    for (const [hash, lastSeen] of this.#listed!) {
      const id = this.#ids.get(hash);
      if (id !== undefined) seen.set(id, lastSeen);
    }
    const now = this.#now();
    const silences = [...recorded];
    if (this.#lastFlush > 0 && this.#lastFlush < now) silences.push({ from: this.#lastFlush, to: now });
    // Other replicas are probably running if there was a flush lately.
    if (silences.length > recorded.length && now - this.#lastFlush > 2 * this.#options.interval)
      await this.#client.put(this.#keys.silences, JSON.stringify(silences.slice(-MAX_SILENCES)));
    return { seen, silences };
  }

  /**
   * Running replicas whose heartbeats do not arrive, although the watch works: etcd has no space for them, for example. A replica that
   * has died counts until its session has ended.
   */
  get missing(): string[] {
    const { replicas, replica: self, interval } = this.#options;
    const now = performance.now();
    for (const replica of this.#arrivedAt.keys()) if (!replicas.has(replica)) this.#arrivedAt.delete(replica);
    const missing: string[] = [];
    for (const { replica, details } of replicas.all) {
      if (replica === self) continue;
      const arrivedAt = this.#arrivedAt.get(replica);
      // Replicas may have different intervals, for example while they are restarted with another one.
      const { flush = interval } = details as { flush?: number };
      if (arrivedAt === undefined) this.#arrivedAt.set(replica, now);
      else if (now - arrivedAt > MISSED_FLUSHES * flush) missing.push(replica);
    }
    return missing;
  }

  follow(heard: (id: string, lastSeen: number) => void): void {
    this.#heard = heard;
    const listed = this.#listed!;
    this.#listed = undefined;
    for (const [hash, lastSeen] of listed) this.#notify(hash, lastSeen);
    this.#timers = [
      setInterval(() => void this.flush(), this.#options.interval).unref(),
      setInterval(() => void this.#adopt(), ADOPT_INTERVAL).unref(),
    ];
  }

  addVm(id: string, created: number): void {
    const hash = hashOfVm(id, created);
    const before = this.#hashes.get(id);
    if (before === hash) return;
    if (before !== undefined) this.deleteVm(id);
    this.#hashes.set(id, hash);
    this.#ids.set(hash, id);
    const lastSeen = this.#early.get(id);
    this.#early.delete(id);
    if (lastSeen !== undefined) this.#shards.add(hash, lastSeen);
  }

  deleteVm(id: string): void {
    const hash = this.#hashes.get(id);
    if (hash === undefined) return;
    this.#hashes.delete(id);
    this.#ids.delete(hash);
    this.#shards.delete(hash);
    this.#early.delete(id);
  }

  /** Adds a heartbeat that this replica has received. @param lastSeen milliseconds since the epoch */
  add(id: string, lastSeen: number): void {
    const hash = this.#hashes.get(id);
    if (hash !== undefined) this.#shards.add(hash, lastSeen);
    else this.#early.set(id, lastSeen);
  }

  /** Writes the heartbeats since the last flush. After a failure, they are written with the next one. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #flush(): Promise<void> {
    const shards = this.#shards.take();
    try {
      while (shards.length > 0) {
        const ops: Op[] = [];
        let bytes = 0;
        let count = 0;
        for (const { shard, blob } of shards) {
          if (count > 0 && (count >= MAX_OPS || bytes + blob.length > MAX_BYTES)) break;
          ops.push({ type: 'put', key: this.#keyOf(String(shard)), value: blob });
          bytes += blob.length;
          count++;
        }
        await this.#write(ops);
        shards.splice(0, count);
      }
      const now = this.#now();
      await this.#write([{ type: 'put', key: this.#keyOf(LAST_FLUSH), value: String(now) }]);
      if (this.#hasFailed) this.#options.onProblem('heartbeats are flushed to etcd again');
      this.#hasFailed = false;
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      this.#shards.failed(shards);
      if (!this.#hasFailed) this.#options.onProblem(`heartbeats cannot be flushed to etcd: ${error.message}`);
      this.#hasFailed = true;
    }
  }

  /** A write that a frozen member executes later can only repeat older heartbeats, which the next flush replaces. */
  async #write(ops: readonly Op[]): Promise<void> {
    const { key, fence, state } = this.#session;
    const { succeeded } = await this.#client.txn([{ key, value: fence }], ops);
    if (!succeeded && state === 'open') this.#session.fenceFailed(fence, false);
    if (!succeeded) throw new EtcdError('unavailable', 'the session of this replica is not open');
  }

  #keyOf(name: string): string {
    return `${this.#keys.heartbeats}${this.#options.replica}/${name}`;
  }

  #receive({ events }: Batch): void {
    for (const { key, kv } of events) {
      const [replica = '', name] = key.slice(this.#keys.heartbeats.length).split('/');
      if (replica === this.#options.replica) continue;
      if (!kv) {
        if (name === LAST_FLUSH) this.#writers.delete(replica);
        continue;
      }
      if (!this.#writers.has(replica)) this.#writers.set(replica, this.#now());
      if (name === LAST_FLUSH) {
        this.#arrivedAt.set(replica, performance.now());
        this.#lastFlush = Math.max(this.#lastFlush, Number(kv.value.toString()));
      } else for (const { hash, lastSeen } of decodeShard(kv.value)) this.#notify(hash, lastSeen);
    }
  }

  #notify(hash: string, lastSeen: number): void {
    if (this.#listed) {
      if ((this.#listed.get(hash) ?? 0) < lastSeen) this.#listed.set(hash, lastSeen);
      return;
    }
    const id = this.#ids.get(hash);
    if (id !== undefined) this.#heard?.(id, lastSeen);
  }

  /** Takes over the heartbeats of replicas that have ended. Only the first of the running replicas does. */
  async #adopt(): Promise<void> {
    const { replicas, replica: self } = this.#options;
    const now = this.#now();
    const [first] = replicas.all;
    for (const [replica, seenAt] of this.#writers) {
      if (replicas.has(replica)) this.#writers.set(replica, now);
      else if (now - seenAt > ADOPT_AFTER && first?.replica === self) await this.#adoptFrom(replica).catch(() => {});
    }
  }

  async #adoptFrom(replica: string): Promise<void> {
    const prefix = `${this.#keys.heartbeats}${replica}/`;
    const all = { key: prefix, rangeEnd: prefixEnd(prefix) };
    const { kvs, header } = await this.#client.range(all);
    for (const { key, value } of kvs) {
      if (key.endsWith(`/${LAST_FLUSH}`)) continue;
      for (const { hash, lastSeen } of decodeShard(value)) if (this.#ids.has(hash)) this.#shards.add(hash, lastSeen);
    }
    await this.flush();
    if (this.#shards.isDirty) return;
    // Marks of its transactions, and requests that it has not answered.
    const others = [`${this.#keys.replica(replica)}/`, this.#keys.request(replica, '')];
    // The replica may have been suspended, and have written heartbeats since they were read.
    const { succeeded } = await this.#client.txn(
      [{ ...all, modRevision: header.revision + 1, result: '<' }],
      [{ type: 'delete', ...all }, ...others.map((key): Op => ({ type: 'delete', key, rangeEnd: prefixEnd(key) }))],
    );
    if (succeeded) this.#writers.delete(replica);
  }

  /** Flushes for the last time. */
  async close(): Promise<void> {
    this.stop();
    await this.#flushing;
    await this.flush();
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#informer.stop();
  }
}
