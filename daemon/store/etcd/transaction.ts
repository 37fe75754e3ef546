/**
 * Fenced transactions. A transaction without an answer may have been executed, and a frozen member may execute it later. Its
 * outcome is never guessed: a new fence makes it impossible from some revision on, and the view of the keys at that revision
 * shows whether it was executed before.
 */
import type { EtcdClient } from './etcd-client.ts';
import { EtcdError } from './etcd-error.ts';
import type { Batch, Informer } from './informer.ts';
import type { Compare, Op, OpResponse, RangeRequest, RangeResponse, TxnResponse } from './messages.ts';
import type { ReplicaSession } from './replica-session.ts';

/** Milliseconds until a transaction fails: a frozen member (1.5 s), a new fence, and a watch on another member. */
const DEFAULT_TIMEOUT = 5000;
/** Milliseconds that must be left for an attempt. With less, a slow answer would become an unknown outcome. */
const SHORTEST_ATTEMPT = 100;

/** A transaction that changes keys of the informer's prefix. */
export interface Write {
  compares: readonly Compare[];
  /**
   * At least one put with a value that no other transaction puts, for example because it contains a random id; or otherwise a
   * deletion of a key that `compares` binds to its mod revision. Such a deletion without a put works while etcd has no space. If
   * its answer is lost and another replica has deleted the key at the same revision, it also counts as applied.
   */
  success: readonly Op[];
  /** Read if a compare fails. */
  failure?: readonly ({ type: 'range' } & RangeRequest)[];
  /** Key of the put, or of the deletion, that proves the transaction; by default the first put, or else the first deletion. */
  proof?: string;
}

export type Outcome =
  /** @property responses empty if the view has proved the transaction */
  | { applied: true; revision: number; responses: readonly OpResponse[] }
  /** A compare failed. @property failure answers to `failure`, in order, at this revision */
  | { applied: false; revision: number; failure: readonly RangeResponse[] };

/** Watches for the event that proves a transaction. */
interface Proof {
  key: string;
  /** The value put; undefined for a deletion. */
  value: Buffer | undefined;
  /** The mod revision to which a deletion is bound. */
  boundTo: number;
  /** Number of lists of the informer when the transaction was sent. */
  lists: number;
  /** Revision of the event; 0 until it is seen. */
  seenAt: number;
}

export class Transactions {
  readonly #client: EtcdClient;
  readonly #session: ReplicaSession;
  readonly #informer: Informer;
  readonly #now: () => number;
  /** By key, because every event is looked up. */
  readonly #proofs = new Map<string, Set<Proof>>();
  readonly #stopObserving: () => void;
  #barrier: { current: Promise<number>; next: Promise<number> | undefined } | undefined;

  /**
   * @param informer its prefix contains the key of the session and all keys that transactions change
   * @param now a monotonic clock in milliseconds
   */
  constructor(
    client: EtcdClient,
    session: ReplicaSession,
    informer: Informer,
    now: () => number = () => performance.now(),
  ) {
    this.#client = client;
    this.#session = session;
    this.#informer = informer;
    this.#now = now;
    this.#stopObserving = informer.observe((batch) => this.#lookForProofs(batch));
  }

  /**
   * Executes a transaction exactly once, or not at all.
   * @throws EtcdError `unknown` if its outcome is unknown; with any other kind, nothing was changed
   */
  async commit(write: Write, { timeoutMs = DEFAULT_TIMEOUT } = {}): Promise<Outcome> {
    const end = this.#now() + timeoutMs;
    const proof = this.#watchFor(write);
    try {
      return await this.#commit(write, proof, end);
    } finally {
      const others = this.#proofs.get(proof.key);
      others?.delete(proof);
      if (others?.size === 0) this.#proofs.delete(proof.key);
    }
  }

  async #commit(write: Write, proof: Proof, end: number): Promise<Outcome> {
    /** An attempt to delete whose outcome is unknown. It can be repeated, because it is bound to a revision. */
    let ambiguous: EtcdError | undefined;
    /** A deletion is proved by the key's deletion at this revision, after an attempt that may have caused it. */
    const isProved = () => proof.seenAt > 0 && (!isRemoval(proof) || ambiguous !== undefined);
    for (;;) {
      try {
        const outcome = await this.#attempt(write, proof, end);
        if (outcome?.applied === false && ambiguous) await this.#waitForRemoval(proof, ambiguous, end);
        if (outcome?.applied === false && isProved()) return proved(proof);
        if (outcome) return outcome;
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        const mayRepeat = error.kind === 'unknown' && isRemoval(proof);
        if (mayRepeat) ambiguous = error;
        if (isProved()) return proved(proof);
        if (!mayRepeat) throw ambiguous ? new EtcdError('unknown', ambiguous.message, { cause: error }) : error;
      }
    }
  }

  /** @returns undefined if nothing was changed, and the transaction must be sent again */
  async #attempt(write: Write, proof: Proof, end: number): Promise<Outcome | undefined> {
    const { key } = this.#session;
    // Only deletions work while etcd has no space. A fence that must be replaced is good enough for them.
    const fence =
      isRemoval(proof) && this.#session.state === 'open'
        ? this.#session.fence
        : await this.#session.current(this.#left(end));
    if (this.#left(end) < SHORTEST_ATTEMPT)
      throw new EtcdError('unavailable', 'the session of this replica was not renewed in time', { isTimeout: true });
    let response: TxnResponse;
    try {
      response = await this.#client.txn(
        [{ key, value: fence }, ...write.compares],
        write.success,
        [...(write.failure ?? []), { type: 'range', key }],
        { timeoutMs: this.#left(end) },
      );
    } catch (error) {
      if (!(error instanceof EtcdError) || error.kind !== 'unknown' || isRemoval(proof)) throw error;
      await this.#resolve(fence, proof, error, end);
      return proof.seenAt > 0 ? proved(proof) : undefined;
    }
    const { succeeded, responses, header } = response;
    if (succeeded) return { applied: true, revision: header.revision, responses };
    const ranges = responses.filter((each) => each.type === 'range');
    const [stored] = ranges.pop()?.kvs ?? [];
    if (stored?.value.toString() === fence) return { applied: false, revision: header.revision, failure: ranges };
    // Another request has replaced the fence, or the lease has expired.
    this.#session.fenceFailed(fence, stored === undefined);
    return undefined;
  }

  /**
   * Resolves an ambiguous outcome. Afterwards, the transaction was executed if its proof was seen; otherwise it was not, and
   * never will be.
   * @throws EtcdError unknown
   */
  async #resolve(fence: string, proof: Proof, cause: EtcdError, end: number): Promise<void> {
    if (proof.seenAt > 0) return;
    try {
      const revision = await this.#session.invalidate(fence, this.#left(end));
      await this.#informer.waitFor(revision, this.#left(end));
    } catch (error) {
      throw new EtcdError('unknown', cause.message, { cause: error, endpoint: cause.endpoint });
    }
    if (proof.seenAt === 0 && proof.lists !== this.#informer.lists)
      throw new EtcdError('unknown', `${cause.message}; the changes since then were compacted`, { cause });
  }

  /**
   * Waits until the view shows how a key was deleted that a repeated deletion has found absent.
   * @throws EtcdError unknown
   */
  async #waitForRemoval({ key, boundTo }: Proof, cause: EtcdError, end: number): Promise<void> {
    // The view may not have reached the revision that the key had before, so that it does not know the key.
    const isPending = () => this.#informer.revision < boundTo || this.#informer.revisionOf(key) === boundTo;
    try {
      while (isPending()) await this.#informer.waitFor(this.#informer.revision + 1, this.#left(end));
    } catch {
      throw cause;
    }
  }

  /**
   * Brings the view up to date: when it resolves, the view contains every change that was committed before the call. Writes a
   * key beside that of the session, because only events of the prefix move the view. Concurrent calls share the write.
   * @returns a revision that the view has reached
   * @throws EtcdError unavailable
   */
  barrier(timeoutMs: number = DEFAULT_TIMEOUT): Promise<number> {
    if (!this.#barrier) {
      const current = this.#passBarrier(timeoutMs);
      this.#barrier = { current, next: undefined };
      return current;
    }
    // The write in progress may have been ordered before a change that the caller knows.
    const { current, next } = this.#barrier;
    this.#barrier.next ??= next ?? current.catch(() => 0).then(() => this.barrier(timeoutMs));
    return this.#barrier.next;
  }

  async #passBarrier(timeoutMs: number): Promise<number> {
    const end = this.#now() + timeoutMs;
    try {
      const revision = await this.#putBarrier(end);
      await this.#informer.waitFor(revision, this.#left(end));
      return revision;
    } catch (error) {
      if (!(error instanceof EtcdError) || error.kind !== 'no-space') throw error;
      await this.#informer.awaitSameKeys(this.#left(end));
      return this.#informer.revision;
    } finally {
      this.#barrier = undefined;
    }
  }

  /** @returns the revision of the put */
  async #putBarrier(end: number): Promise<number> {
    for (;;) {
      const fence = await this.#session.current(this.#left(end));
      try {
        const { lease, key } = this.#session;
        const { header } = await this.#client.put(`${key}/barrier`, '', lease, { timeoutMs: this.#left(end) });
        return header.revision;
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        if (error.kind === 'not-found') this.#session.fenceFailed(fence, true);
        else if (error.kind !== 'unknown') throw error;
        else if (this.#now() >= end) throw new EtcdError('unavailable', error.message, { cause: error });
      }
    }
  }

  close(): void {
    this.#stopObserving();
  }

  /** Milliseconds that are left. */
  #left(end: number): number {
    return Math.max(1, end - this.#now());
  }

  #watchFor({ compares, success, proof: key }: Write): Proof {
    const put = success.find((op) => op.type === 'put' && (key === undefined || op.key === key));
    const removal = success.find((op) => op.type === 'delete' && (key === undefined || op.key === key));
    const op = put ?? removal;
    if (!op) throw new Error('a transaction must put or delete the key that proves it');
    const name = op.key.toString();
    const bound = compares.find((compare) => compare.key === name && 'modRevision' in compare);
    if (op.type === 'delete' && !bound) throw new Error('a deletion must be bound to the mod revision of its key');
    const proof: Proof = {
      key: name,
      value: op.type === 'put' ? Buffer.from(op.value) : undefined,
      boundTo: bound && 'modRevision' in bound ? bound.modRevision : 0,
      lists: this.#informer.lists,
      seenAt: 0,
    };
    const others = this.#proofs.get(name);
    if (others) others.add(proof);
    else this.#proofs.set(name, new Set([proof]));
    return proof;
  }

  #lookForProofs({ events }: Batch): void {
    if (this.#proofs.size === 0) return;
    for (const event of events) {
      for (const proof of this.#proofs.get(event.key) ?? []) {
        const isProved = proof.value
          ? event.kv !== undefined && proof.value.equals(event.kv.value)
          : event.type === 'delete' && event.previousRevision === proof.boundTo;
        if (isProved) proof.seenAt = event.revision;
      }
    }
  }
}

/** True for a transaction that puts nothing. */
function isRemoval({ value }: Proof): boolean {
  return value === undefined;
}

function proved({ seenAt }: Proof): Outcome {
  return { applied: true, revision: seenAt, responses: [] };
}
