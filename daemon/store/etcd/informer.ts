/**
 * A view of all keys with one prefix: a list, and then a watch that resumes after the last event, on another member if its own
 * falls silent. It reports each change once and in order. If the cluster has compacted the changes that it missed, it lists
 * again and reports the difference, deletions included.
 *
 * The view stores the revisions of the keys, and its user the values.
 */
import { backoff } from './backoff.ts';
import type { EtcdClient } from './etcd-client.ts';
import { EtcdError } from './etcd-error.ts';
import type { Duplex } from './grpc.ts';
import {
  type KeyValue,
  prefixEnd,
  type RangeResponse,
  type StoredEvent,
  type WatchRequest,
  type WatchResponse,
} from './messages.ts';
import { pagesOf } from './pages.ts';

export interface WatchEvent {
  type: 'put' | 'delete';
  key: string;
  /** Revision of the change. For a deletion that a list reveals, the revision of the list. */
  revision: number;
  /** The new state after a put. Its value is a view on the received message: copy it to retain it. */
  kv?: KeyValue;
  /** Mod revision of the key in the view before this event; 0 if it was absent. */
  previousRevision: number;
}

/** Changes that the view has applied. All changes of one transaction are in the same batch. */
export interface Batch {
  /** Revision of the view after the batch. During the first list, 0. */
  revision: number;
  /** From a watch, in the order of their revisions; from a list, puts in the order of their keys, and then deletions. */
  events: readonly WatchEvent[];
  /** `list`: a page of the first list, or the difference between the view and a later list. */
  source: 'list' | 'watch';
  /** True if the list shows another history: the cluster was restored from a backup. All keys are reported as put. */
  isReset: boolean;
}

export interface InformerOptions {
  /** Called with each batch. It must not throw. */
  apply(batch: Batch): void;
  /** Called with a sentence when a watch ends or the view is listed again. */
  onProblem?: ((text: string) => void) | undefined;
  /** A monotonic clock in milliseconds. */
  now?: () => number;
  random?: () => number;
}

/** Milliseconds between two progress requests. */
const PROGRESS_INTERVAL = 1000;
/** Intervals without any message, after which a member counts as silent: two progress requests are unanswered then. */
const SILENT_INTERVALS = 3;
/** Milliseconds without any message, after which someone who waits for a revision makes the view try another member. */
const IMPATIENCE = 700;
/** Maximum milliseconds between two attempts to watch. A watch that lasts longer has worked. */
const MAX_PAUSE = 2000;

/** How a watch has ended. */
type WatchEnd = 'lost' | 'compacted' | 'reset';

interface Known {
  modRevision: number;
  version: number;
}

/** The last event, by which a later connection recognises the history. Without a value, the key was deleted. */
interface Anchor {
  key: string;
  modRevision: number;
  value: Buffer | undefined;
}

interface Waiter {
  revision: number;
  finish(error?: Error): void;
}

export class Informer {
  readonly #client: EtcdClient;
  readonly #prefix: string;
  readonly #options: InformerOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  #known = new Map<string, Known>();
  #revision = 0;
  #clusterId = 0n;
  #anchor: Anchor | undefined;
  #lists = 0;
  #gaps = 0;
  #watches = 0;
  /** Time of the last message of a watch, or of the end of the list. */
  #confirmedAt = Number.NEGATIVE_INFINITY;
  /** Number of messages of watches, by which silence is noticed without a clock. */
  #messages = 0;
  readonly #waiters = new Set<Waiter>();
  readonly #observers = new Set<(batch: Batch) => void>();
  #stream: Duplex<WatchRequest, WatchResponse> | undefined;
  /** Ends the current watch. */
  #endWatch: ((end: WatchEnd) => void) | undefined;
  #wake: (() => void) | undefined;
  #isStopped = false;

  /** @param prefix ASCII; ends with a slash */
  constructor(client: EtcdClient, prefix: string, options: InformerOptions) {
    this.#client = client;
    this.#prefix = prefix;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
  }

  /** Revision of the last event applied, or of the last list; 0 before the first list is complete. */
  get revision(): number {
    return this.#revision;
  }

  /** Milliseconds since a member last confirmed that it would report changes; at most about 1000 while the watch works. */
  get age(): number {
    return this.#now() - this.#confirmedAt;
  }

  /** Number of complete lists. If it has changed, the view may have missed intermediate states. */
  get lists(): number {
    return this.#lists;
  }

  /** Number of times at which the version of a key showed that an event was missing. Each causes another list. */
  get gaps(): number {
    return this.#gaps;
  }

  /** Number of watches that were created. */
  get watches(): number {
    return this.#watches;
  }

  /** `host:port` of the member that it watches. */
  get endpoint(): string | undefined {
    return this.#stream?.endpoint;
  }

  /** Id of the cluster, from the first list. */
  get clusterId(): bigint {
    return this.#clusterId;
  }

  /** Mod revision of a key in the view; 0 if it is absent. */
  revisionOf(key: string): number {
    return this.#known.get(key)?.modRevision ?? 0;
  }

  /**
   * Lists all keys, and from then on watches them. Tries again until a list succeeds.
   * @throws EtcdError denied, unsupported; or `unavailable` if it was stopped meanwhile
   */
  async start(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#list(false);
        break;
      } catch (error) {
        if (!(error instanceof EtcdError) || error.kind === 'denied' || error.kind === 'unsupported') throw error;
        this.#report(`cannot list the keys: ${error.message}`);
      }
      await this.#pause(attempt);
      if (this.#isStopped) throw stopped();
    }
    void this.#run();
  }

  /** Calls a function after each batch, after `apply`. @returns a function that stops it */
  observe(observer: (batch: Batch) => void): () => void {
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  /**
   * Waits until the view has reached a revision. Only the revision of an event of this prefix is certain to be reached: etcd
   * does not report other revisions.
   * @throws EtcdError unavailable if it is not reached in time
   */
  waitFor(revision: number, timeoutMs: number): Promise<void> {
    if (this.#revision >= revision) return Promise.resolve();
    if (this.#isStopped) return Promise.reject(stopped());
    return new Promise((resolve, reject) => {
      const messages = this.#messages;
      const { endpoint } = this;
      const late = () => waiter.finish(new EtcdError('unavailable', `the view has not reached revision ${revision}`));
      const timer = setTimeout(late, timeoutMs);
      const impatience = setTimeout(() => {
        if (this.#messages === messages && this.endpoint === endpoint) this.#endWatch?.('lost');
      }, IMPATIENCE);
      const waiter: Waiter = {
        revision,
        finish: (error) => {
          clearTimeout(timer);
          clearTimeout(impatience);
          this.#waiters.delete(waiter);
          if (error) reject(error);
          else resolve();
        },
      };
      this.#waiters.add(waiter);
      this.#stream?.send({ progress: true });
    });
  }

  /**
   * Waits until the view contains every change that was committed before the call, while etcd accepts no put that would show it:
   * until the view has each key at the revision that etcd has, and no other keys. etcd reads all keys for this.
   * @throws EtcdError unavailable
   */
  async awaitSameKeys(timeoutMs: number): Promise<void> {
    const end = this.#now() + timeoutMs;
    const left = () => Math.max(1, end - this.#now());
    const { header, kvs, count } = await this.#client.range(
      { key: this.#prefix, rangeEnd: prefixEnd(this.#prefix), keysOnly: true, minModRevision: this.#revision + 1 },
      { timeoutMs: left() },
    );
    for (const { modRevision } of kvs) await this.waitFor(modRevision, left());
    // The view lacks removals if it has more keys. Beyond the revision of the answer, later changes count too.
    while (this.#revision < header.revision && this.#known.size !== count)
      await this.waitFor(this.#revision + 1, left());
  }

  /** Reports nothing from now on. A request that is in progress ends with its own timeout. */
  stop(): void {
    this.#isStopped = true;
    this.#endWatch?.('lost');
    this.#wake?.();
    for (const waiter of this.#waiters) waiter.finish(stopped());
  }

  /** Watches until it is stopped. */
  async #run(): Promise<void> {
    let end: WatchEnd = 'lost';
    let isFirst = true;
    for (let attempt = 0; !this.#isStopped; ) {
      const startedAt = this.#now();
      try {
        if (end === 'lost' && !isFirst) end = await this.#compareHistory();
        if (end !== 'lost') {
          this.#report(end === 'reset' ? 'the cluster has another history' : 'the missed changes were compacted');
          await this.#list(end === 'reset');
          end = 'lost';
        }
        if (this.#isStopped) return;
        isFirst = false;
        end = await this.#watch();
      } catch (error) {
        isFirst = false;
        if (!(error instanceof EtcdError)) throw error;
        if (this.#isStopped) return;
        // A watch with an expired token is refused as "permission denied".
        if (error.kind === 'denied') this.#client.forgetToken();
        this.#report(`cannot follow the changes: ${error.message}`);
      }
      // A watch that has lasted is resumed at once.
      if (this.#now() - startedAt > MAX_PAUSE) attempt = 0;
      if (!this.#isStopped && attempt++ > 0) await this.#pause(attempt);
    }
  }

  async #pause(attempt: number): Promise<void> {
    const ms = backoff(attempt, MAX_PAUSE, this.#random);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  #report(text: string): void {
    this.#options.onProblem?.(text);
  }

  /**
   * Reads the last event again, in the state at the revision of the view. Another value, or a revision that the cluster has not
   * reached, shows that it was restored from a backup.
   */
  async #compareHistory(): Promise<WatchEnd> {
    const anchor = this.#anchor;
    try {
      const { header, kvs } = await this.#client.range({
        key: anchor?.key ?? this.#prefix,
        revision: this.#revision,
      });
      if (header.clusterId !== this.#clusterId) return 'reset';
      if (!anchor) return 'lost';
      const [kv] = kvs;
      const isSame = anchor.value
        ? kv?.modRevision === anchor.modRevision && kv.value.equals(anchor.value)
        : kv === undefined;
      return isSame ? 'lost' : 'reset';
    } catch (error) {
      if (error instanceof EtcdError && error.kind === 'compacted') return 'compacted';
      if (error instanceof EtcdError && error.kind === 'future') return 'reset';
      throw error;
    }
  }

  /**
   * Lists all keys at one revision, and applies the difference to the view.
   * @param isReset true if the history differs, so that equal revisions do not mean equal values
   */
  async #list(isReset: boolean): Promise<void> {
    for (;;) {
      try {
        if (await this.#listOnce(isReset)) return;
        isReset = true;
      } catch (error) {
        // The pages are of one revision, which may be compacted before the last one is read.
        if (!(error instanceof EtcdError) || error.kind !== 'compacted') throw error;
      }
    }
  }

  /** @returns false if the list shows another history than the view, and nothing was applied */
  async #listOnce(isReset: boolean): Promise<boolean> {
    const isFirst = this.#lists === 0;
    const listed = new Map<string, Known>();
    const pending: WatchEvent[] = [];
    let anchor: KeyValue | undefined;
    let header: RangeResponse['header'] | undefined;
    for await (const page of pagesOf(this.#client, this.#prefix)) {
      if (this.#isStopped) throw stopped();
      header ??= page.header;
      const isOther = !isFirst && (header.clusterId !== this.#clusterId || header.revision < this.#revision);
      if (isOther && !isReset) return false;
      const events: WatchEvent[] = [];
      for (const kv of page.kvs) {
        const { key, modRevision, version } = kv;
        const previousRevision = this.revisionOf(key);
        listed.set(key, { modRevision, version });
        if (!anchor || modRevision > anchor.modRevision) anchor = kv;
        if (previousRevision === modRevision && !isReset) continue;
        // The view was complete at its revision, so that an older change cannot be new.
        if (!isFirst && !isReset && modRevision <= this.#revision) return false;
        events.push({ type: 'put', key, revision: modRevision, kv, previousRevision });
      }
      if (isFirst) {
        for (const { key } of events) this.#known.set(key, listed.get(key)!);
        this.#apply({ revision: 0, events, source: 'list', isReset: false });
      } else {
        for (const event of events) pending.push(event);
      }
    }
    const { revision, clusterId } = header!;
    for (const [key, { modRevision }] of this.#known)
      if (!listed.has(key)) pending.push({ type: 'delete', key, revision, previousRevision: modRevision });
    this.#known = listed;
    this.#revision = revision;
    this.#clusterId = clusterId;
    this.#anchor = anchor && { key: anchor.key, modRevision: anchor.modRevision, value: Buffer.from(anchor.value) };
    this.#lists++;
    this.#confirmedAt = this.#now();
    this.#apply({ revision, events: pending, source: 'list', isReset });
    return true;
  }

  /** Watches from the revision after the view's one. @returns why the watch has ended */
  async #watch(): Promise<WatchEnd> {
    const endpoint = this.#client.endpoints.choose();
    return new Promise<WatchEnd>((resolve, reject) => {
      let silent = 0;
      /** Events of a response that has not arrived completely. */
      let fragments: StoredEvent[] = [];
      let isOver = false;
      const end = (act: () => void): void => {
        if (isOver) return;
        isOver = true;
        clearInterval(timer);
        this.#endWatch = undefined;
        this.#stream?.cancel();
        this.#stream = undefined;
        act();
      };
      const timer = setInterval(() => {
        if (++silent >= SILENT_INTERVALS) lose('does not answer', true);
        else this.#stream?.send({ progress: true });
      }, PROGRESS_INTERVAL);
      const lose = (reason: string, isTimeout: boolean): void => {
        if (isOver) return;
        this.#client.endpoints.failed(endpoint, isTimeout);
        this.#report(`the watch on ${endpoint} has ended: it ${reason}`);
        end(() => resolve('lost'));
      };
      this.#endWatch = (reason) => {
        if (!this.#isStopped && reason === 'lost') lose('does not answer', true);
        else end(() => resolve(reason));
      };
      const onResponse = (response: WatchResponse): void => {
        if (isOver) return;
        silent = 0;
        this.#messages++;
        if (response.header.clusterId !== this.#clusterId) end(() => resolve('reset'));
        else if (response.compactRevision > 0) end(() => resolve('compacted'));
        else if (response.canceled) {
          this.#client.endpoints.failed(endpoint, false);
          end(() => reject(cancelError(response, endpoint)));
        } else onConfirmed(response);
      };
      const onConfirmed = (response: WatchResponse): void => {
        this.#confirmedAt = this.#now();
        this.#client.endpoints.succeeded(endpoint);
        if (response.created) this.#watches++;
        for (const event of response.events) fragments.push(event);
        if (response.fragment) return;
        const events = fragments;
        fragments = [];
        if (events.length > 0 && !this.#applyEvents(events)) end(() => resolve('compacted'));
      };
      const onEnd = (error: Error): void => lose(`failed (${error.message})`, false);
      this.#client.watch(endpoint, { onResponse, onEnd }).then(
        (stream) => {
          if (isOver) return stream.cancel();
          this.#stream = stream;
          const create = { key: this.#prefix, rangeEnd: prefixEnd(this.#prefix), startRevision: this.#revision + 1 };
          stream.send({ create });
        },
        (error) => end(() => reject(error)),
      );
    });
  }

  /** @returns false if an event is missing */
  #applyEvents(stored: readonly StoredEvent[]): boolean {
    const events: WatchEvent[] = [];
    /** The view must not change if an event is missing: the next list is compared with it. */
    const changed = new Map<string, Known | undefined>();
    for (const { type, kv } of stored) {
      const { key, modRevision: revision } = kv;
      const known = changed.has(key) ? changed.get(key) : this.#known.get(key);
      const previousRevision = known?.modRevision ?? 0;
      if (type === 'delete') {
        changed.set(key, undefined);
        events.push({ type, key, revision, previousRevision });
        continue;
      }
      if (kv.version !== (known?.version ?? 0) + 1) {
        this.#gaps++;
        this.#report(`an event of ${key} is missing: version ${kv.version} follows ${known?.version ?? 0}`);
        return false;
      }
      changed.set(key, { modRevision: revision, version: kv.version });
      events.push({ type, key, revision, kv, previousRevision });
    }
    for (const [key, known] of changed) {
      if (known) this.#known.set(key, known);
      else this.#known.delete(key);
    }
    // The header has the revision of the store, which may be ahead of the events: resuming there would lose events.
    const last = events.at(-1)!;
    this.#revision = last.revision;
    this.#anchor = { key: last.key, modRevision: last.revision, value: last.kv && Buffer.from(last.kv.value) };
    this.#apply({ revision: this.#revision, events, source: 'watch', isReset: false });
    return true;
  }

  #apply(batch: Batch): void {
    if (this.#isStopped) return;
    this.#options.apply(batch);
    for (const observer of this.#observers) observer(batch);
    for (const waiter of this.#waiters) if (waiter.revision <= this.#revision) waiter.finish();
  }
}

/** The server has refused or ended the watch. */
function cancelError({ cancelReason }: WatchResponse, endpoint: string): EtcdError {
  const kind = /permission|token|auth/.test(cancelReason) ? 'denied' : 'unavailable';
  return new EtcdError(kind, `${endpoint}: ${cancelReason || 'the watch was canceled'}`, { endpoint });
}

function stopped(): EtcdError {
  return new EtcdError('unavailable', 'the view was stopped');
}
