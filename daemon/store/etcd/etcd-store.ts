/**
 * The store on an etcd cluster, which several replicas of a daemon share. Each has a view of all keys in memory. A change is one
 * transaction that compares the revision of the VM's key, so etcd decides which of two changes comes first.
 *
 * Heartbeats are packed and written at an interval. So are the identities of agents and the last uses of tokens, unless another
 * replica needs them.
 */
import type { ReplicaInfo } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { ChangeType, FieldChanges } from '../../../src/protocol/events.ts';
import { formatPosition, type Position, tagOf } from '../../../src/protocol/position.ts';
import type { Silence } from '../../clock.ts';
import { kernelRandomHex } from '../../process/random.ts';
import { backupInProgress } from '../sqlite-store.ts';
import type {
  Change,
  Contents,
  Follower,
  JournalItem,
  LastChange,
  RecordChange,
  Replication,
  Store,
  StoredHeartbeat,
  StoredVm,
} from '../store.ts';
import { backupCluster, cannotBackUp } from './backup-cluster.ts';
import { bareTag, transactionOf } from './change-transaction.ts';
import { EtcdClient } from './etcd-client.ts';
import { EtcdError, toEtcdOpenError, toEtcdRuntimeError } from './etcd-error.ts';
import { decodeValue, EtcdKeys, encodeValue, LAYOUT_VERSION } from './etcd-keys.ts';
import type { EtcdTarget } from './etcd-url.ts';
import { type MetaHead, NoteRing, Replicas, readNote, revisionOf } from './etcd-view.ts';
import { FirstList } from './first-list.ts';
import { HeartbeatExchange } from './heartbeat-exchange.ts';
import { IdentityExchange } from './identity-exchange.ts';
import { type Batch, Informer } from './informer.ts';
import { LateNotes } from './late-notes.ts';
import { type Compare, type Op, prefixEnd } from './messages.ts';
import { OwnWrites } from './own-writes.ts';
import { RecordWriter } from './record-writer.ts';
import { ReplicaSession } from './replica-session.ts';
import { Transactions } from './transaction.ts';
import { ViewChanges } from './view-changes.ts';

/** Maximum number of changes in progress. etcd commits as many in a second. */
const MAX_IN_FLIGHT = 2000;
/** Milliseconds between two checks whether the view is current, and whether the journal is too long. */
const CHECK_INTERVAL = 250;
/** Milliseconds without a message of etcd after which heartbeats of other replicas may be missing. */
const MAX_AGE = 3500;
/** Milliseconds that a refused change waits for the change that was first. */
const WINNER_TIMEOUT = 5000;

export interface EtcdStoreOptions<V> {
  target: EtcdTarget;
  /** Milliseconds between two flushes of heartbeats. */
  flushInterval: number;
  /** Facts about this replica, for the others to show. */
  details: Record<string, unknown>;
  decode(vm: StoredVm): V | undefined;
  /** Called with a sentence when etcd does not do what it should. */
  onProblem(text: string): void;
  /** Called once, with a sentence, if the store must be closed and opened again: the cluster was restored from a backup. */
  onDeath(reason: string): void;
  /** Wall clock in milliseconds since the epoch, as that of the registry. */
  now?: (() => number) | undefined;
}

/** The contents of an etcd store. */
export interface EtcdContents<V> extends Contents<V> {
  silences: readonly Silence[];
}

export class EtcdStore implements Store {
  readonly replication: Replication;
  readonly #client: EtcdClient;
  readonly #keys: EtcdKeys;
  readonly #replica: string;
  readonly #writes: OwnWrites;
  readonly #session: ReplicaSession;
  readonly #informer: Informer;
  readonly #transactions: Transactions;
  readonly #notes = new NoteRing(Math.random);
  readonly #replicas: Replicas;
  readonly #records: RecordWriter;
  readonly #heartbeats: HeartbeatExchange;
  readonly #identities: IdentityExchange;
  readonly #lateNotes: LateNotes;
  readonly #onProblem: (text: string) => void;
  readonly #onDeath: (reason: string) => void;
  /** Changes of this replica that have not arrived, by the id of their transaction, or the key of a removal without a note. */
  readonly #sent = new Map<string, Change>();
  /** Batches from before {@link Replication.follow}. */
  #early: Batch[] | undefined = [];
  #follower: Follower | undefined;
  #changes: ViewChanges | undefined;
  #listed: FirstList | undefined = new FirstList();
  #genesis: Position = { revision: 0, tag: '' };
  #registryId = '';
  #inFlight = 0;
  #isCurrent = true;
  /** The view is current, and heartbeats of all other replicas arrive. */
  #hearsAll = true;
  #lists = 0;
  #isPruning = false;
  #isBackingUp = false;
  #isClosed = false;
  /** The end of the session, if the cluster has another history. */
  #abandoning: Promise<void> | undefined;
  readonly #timer: NodeJS.Timeout;

  private constructor(client: EtcdClient, options: Omit<EtcdStoreOptions<unknown>, 'decode'>) {
    const { target, flushInterval, details, onProblem, onDeath, now } = options;
    this.#client = client;
    this.#onProblem = onProblem;
    this.#keys = new EtcdKeys(target.prefix);
    this.#replica = kernelRandomHex(8);
    this.#writes = new OwnWrites(this.#replica);
    this.#onDeath = onDeath;
    this.#replicas = new Replicas(this.#keys);
    this.#informer = new Informer(client, this.#keys.state, { apply: (batch) => this.#receive(batch), onProblem });
    this.#session = new ReplicaSession(client, {
      key: this.#keys.replica(this.#replica),
      details: { ...details, flush: flushInterval },
      onProblem,
    });
    this.#transactions = new Transactions(client, this.#session, this.#informer);
    this.#records = new RecordWriter(this.#transactions, this.#keys, this.#informer, () => ({
      key: this.#keys.flush(this.#replica),
      write: this.#writes.next(),
    }));
    this.#heartbeats = new HeartbeatExchange(client, this.#session, this.#keys, {
      replica: this.#replica,
      replicas: this.#replicas,
      interval: flushInterval,
      onProblem,
      now,
    });
    this.#identities = new IdentityExchange({
      replica: this.#replica,
      keys: this.#keys,
      replicas: this.#replicas,
      transactions: this.#transactions,
      records: this.#records,
      writes: this.#writes,
    });
    this.#lateNotes = new LateNotes(this.#transactions, this.#keys, this.#writes);
    this.replication = {
      ownsIdentity: (id) => this.#identities.owns(id),
      fetchIdentity: (id) => this.#identities.fetch(id),
      claimIdentity: (record) => this.#identities.claim(record),
      flushInterval,
      follow: (follower) => this.#follow(follower),
      refresh: () => this.#refresh(),
      age: () => this.#age(),
      replicas: () => this.#replicas.all.map(({ replica, details }) => this.#infoOf(replica, details)),
      publishUrl: (url) => this.#session.publish({ url }),
    };
    this.#timer = setInterval(() => this.#check(), CHECK_INTERVAL).unref();
  }

  /**
   * Opens the store, and creates it if the prefix has none.
   * @throws VregError STORE_UNUSABLE, STORE_NEWER
   */
  static async open<V>({
    decode,
    ...options
  }: EtcdStoreOptions<V>): Promise<{ store: EtcdStore; contents: EtcdContents<V> }> {
    const client = await EtcdClient.open(options.target);
    const store = new EtcdStore(client, options);
    try {
      return { store, contents: await store.#open(decode) };
    } catch (error) {
      store.#stop();
      await store.#session.close();
      client.close();
      throw error instanceof EtcdError ? toEtcdOpenError(error) : error;
    }
  }

  async #open<V>(decode: (vm: StoredVm) => V | undefined): Promise<EtcdContents<V>> {
    await this.#client.checkServer(this.#keys.meta);
    await this.#create();
    await this.#session.open();
    await this.#informer.start();
    const listed = this.#listed!;
    this.#listed = undefined;
    const { meta } = listed;
    if (!meta) throw new VregError('STORE_UNUSABLE', 'the registry in etcd was removed while it was being opened');
    if (meta.head.schema > LAYOUT_VERSION) {
      throw new VregError(
        'STORE_NEWER',
        `the registry in etcd was written by a newer vreg (layout ${meta.head.schema})`,
        {
          hint: 'nothing was changed; upgrade vreg on this machine',
        },
      );
    }
    if (meta.head.restoring !== undefined) {
      throw new VregError('STORE_UNUSABLE', 'a restore into the registry in etcd is not complete', {
        hint: `wait until vreg daemon restore ends; if it was interrupted, delete the keys (etcdctl del --prefix ${this.#keys.prefix}) and restore again`,
      });
    }
    this.#genesis = { revision: meta.revision, tag: meta.head.tag };
    this.#registryId = meta.head.registryId;
    this.#notes.sort();
    for (const vm of listed.vms.values()) this.#heartbeats.addVm(vm.id, vm.created);
    const { seen, silences } = await this.#heartbeats.open(listed.silences);
    this.#lists = this.#informer.lists + this.#heartbeats.lists;
    const vms: V[] = [];
    for (const vm of listed.vms.values()) {
      const { write: _write, ...stored } = { ...vm, lastSeen: Math.max(vm.lastSeen, seen.get(vm.id) ?? 0) };
      const decoded = decode(stored);
      if (decoded !== undefined) vms.push(decoded);
    }
    for (const { kind, key, write } of listed.records) if (kind === 'identity') this.#identities.arrived(key, write);
    const positions = this.#notes.positions(this.#genesis);
    return {
      vms,
      revision: positions.at(-1)!.revision,
      start: this.#genesis.revision,
      positions,
      records: listed.records.map(({ kind, key, body }) => ({ kind, key, body })),
      // Any time of the past will do: replicas have different listening clocks.
      listened: Date.now(),
      registryId: this.#registryId,
      silences,
    };
  }

  /** Creates an empty registry, unless there is one. */
  async #create(): Promise<void> {
    const { meta } = this.#keys;
    const registryId = kernelRandomHex(16);
    const head: MetaHead = { schema: LAYOUT_VERSION, registryId, tag: tagOf(registryId, kernelRandomHex(16)) };
    const isAbsent: Compare[] = [{ key: meta, createRevision: 0 }];
    try {
      await this.#client.txn(isAbsent, [{ type: 'put', key: meta, value: encodeValue(head, '') }]);
    } catch (error) {
      // The list shows whether it was created.
      if (!(error instanceof EtcdError) || error.kind !== 'unknown') throw error;
    }
  }

  commit(change: Change): Promise<Position | undefined> {
    if (this.#isClosed) throw new VregError('BUSY', 'the registry is shutting down', { retryAfter: 1 });
    if (this.#inFlight >= MAX_IN_FLIGHT) {
      const message = `too many changes in progress (limit ${MAX_IN_FLIGHT})`;
      throw new VregError('BUSY', message, { hint: 'retry in a second', retryAfter: 1 });
    }
    return this.#commit(change);
  }

  async #commit(change: Change): Promise<Position | undefined> {
    this.#inFlight++;
    try {
      return await this.#send(change, {});
    } catch (error) {
      const isFull = error instanceof EtcdError && error.kind === 'no-space';
      if (isFull && change.kind === 'token') throw await this.#removeTokens(change, error);
      if (!isFull || change.kind !== 'remove') throw this.#toRuntimeError(error);
      // etcd still deletes keys, but has no space for the note.
      return await this.#send(change, { isBare: true }).catch((bare: unknown) => {
        throw this.#toRuntimeError(bare);
      });
    } finally {
      this.#inFlight--;
    }
  }

  /**
   * Revokes the tokens of a change for which etcd has no space, so that no other replica accepts them. The change still fails,
   * because its note and its position are missing: the registry repeats it until etcd has space.
   * @returns the error of the change
   */
  async #removeTokens({ records = [] }: Change, cause: EtcdError): Promise<unknown> {
    const full = this.#toRuntimeError(cause);
    if (records.some(({ body }) => body !== undefined)) return full;
    try {
      await this.#records.remove(records);
    } catch {
      return full;
    }
    const { hint, retryAfter } = full as VregError;
    const message = 'etcd has no space left for the history; the tokens are removed';
    return new VregError('STORE_FULL', message, { hint: hint!, retryAfter: retryAfter!, cause });
  }

  #toRuntimeError(error: unknown): unknown {
    return error instanceof EtcdError ? toEtcdRuntimeError('store the change', error) : error;
  }

  /** @param isBare a removal without a note */
  async #send(change: Change, { isBare = false }: { isBare?: boolean }): Promise<Position | undefined> {
    const write = this.#writes.next();
    const { compares, success, subject } = transactionOf(change, write, isBare, this.#keys, {
      revision: this.#informer.revision,
      revisionOf: (key) => this.#records.revisionOf(key),
    });
    const name = isBare ? subject : write;
    this.#sent.set(name, change);
    try {
      const outcome = await this.#transactions.commit({
        compares,
        success,
        failure: [{ type: 'range', key: subject, keysOnly: true }],
      });
      if (outcome.applied) {
        const { revision } = outcome;
        const tag = isBare ? bareTag(subject, revision) : change.tag;
        if (change.kind === 'put') this.#heartbeats.addVm(change.vm.id, change.vm.created || revision);
        this.#records.written(change.records ?? [], revision);
        if (isBare && change.kind === 'remove') this.#lateNotes.add(change, { revision, tag });
        return { revision, tag };
      }
      this.#sent.delete(name);
      if (change.requires) await this.#transactions.barrier();
      else await this.#awaitWinner(outcome.failure[0]?.kvs[0]?.modRevision);
      return undefined;
    } catch (error) {
      this.#sent.delete(name);
      if (error instanceof EtcdError && error.kind === 'unknown') this.#writes.failed(write);
      throw error;
    }
  }

  /** Waits for the change that was first. @param revision of the key; undefined if it does not exist */
  async #awaitWinner(revision: number | undefined): Promise<void> {
    if (revision === undefined) await this.#transactions.barrier();
    else await this.#informer.waitFor(revision, WINNER_TIMEOUT);
  }

  commitAll(): Promise<void> {
    throw new VregError('INTERNAL', 'a shared store commits each change alone');
  }

  /** Never fails because etcd is away, or has another history: what could not be written is written later, or never. */
  async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    _listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    if (this.#abandoning) return;
    for (const { id, lastSeen } of heartbeats) this.#heartbeats.add(id, lastSeen);
    try {
      await this.#records.save(records);
    } catch (error) {
      throw this.#toRuntimeError(error);
    }
  }

  async history(id: string, limit: number, before = Number.POSITIVE_INFINITY): Promise<JournalItem[]> {
    const prefix = this.#keys.journal(id, '');
    try {
      const { kvs } = await this.#client.range({ key: prefix, rangeEnd: prefixEnd(prefix) });
      const notes = kvs.map((kv) => ({ kv, note: readNote(kv) }));
      const found = notes
        .filter(({ note }) => revisionOf(note) < before)
        .sort((a, b) => revisionOf(b.note) - revisionOf(a.note))
        .slice(0, limit);
      return found.map(({ kv, note }) => {
        const { type, at, by, tag, moved } = note;
        const revision = revisionOf(note);
        return {
          revision,
          ...(moved === undefined ? { position: formatPosition({ revision, tag }) } : {}),
          at: new Date(at).toISOString(),
          type: type as ChangeType,
          by,
          changes: JSON.parse(decodeValue(kv.value).text) as FieldChanges,
        };
      });
    } catch (error) {
      throw error instanceof EtcdError ? toEtcdRuntimeError('read the history', error) : error;
    }
  }

  async lastChanges(after: number, until: number): Promise<LastChange[] | undefined> {
    return this.#notes.lastChanges(after, until, this.#genesis.revision);
  }

  async tryWrite(): Promise<void> {
    try {
      await this.#records.tryWrite();
    } catch (error) {
      throw this.#toRuntimeError(error);
    }
  }

  /** Reads are served from memory, so that they do not depend on etcd. */
  async read(): Promise<void> {}

  /** The database is on other machines, and contains the data of all users of the cluster. */
  async size(): Promise<undefined> {}

  async backup(path: string, signal?: AbortSignal): Promise<void> {
    if (this.#age() > 0) throw cannotBackUp('etcd cannot be reached');
    if (this.#isBackingUp) throw backupInProgress();
    this.#isBackingUp = true;
    try {
      await this.#heartbeats.flush();
      // While etcd has no space, the backup lacks the last identities and uses of tokens.
      await this.#records.flush().catch(() => {});
      const toListening = (wall: number) => this.#follower?.toListening(wall) ?? wall;
      await backupCluster(this.#client, this.#keys, path, toListening, signal);
    } finally {
      this.#isBackingUp = false;
    }
  }

  async close(): Promise<void> {
    if (this.#abandoning) {
      await this.#abandoning;
      this.#client.close();
      return;
    }
    this.#isClosed = true;
    await this.#heartbeats.close();
    await this.#records.flush().catch(() => {});
    await this.#lateNotes.write();
    this.#stop();
    await this.#client.delete(this.#keys.flush(this.#replica)).catch(() => {});
    await this.#session.close();
    this.#client.close();
  }

  #stop(): void {
    clearInterval(this.#timer);
    this.#heartbeats.stop();
    this.#transactions.close();
    this.#informer.stop();
  }

  async #refresh(): Promise<number> {
    try {
      return await this.#transactions.barrier();
    } catch (error) {
      throw error instanceof EtcdError ? toEtcdRuntimeError('ask etcd for the latest changes', error) : error;
    }
  }

  #infoOf(replica: string, details: Record<string, unknown>): ReplicaInfo {
    const { url, host, version, since } = details as Partial<ReplicaInfo>;
    return { id: replica, url, host, version, since, answered: replica === this.#replica };
  }

  /** Milliseconds for which the view may be outdated; 0 while etcd confirms it. */
  #age(): number {
    return this.#isCurrent ? 0 : Math.round(Math.max(this.#informer.age, this.#heartbeats.age));
  }

  #follow(follower: Follower): void {
    this.#follower = follower;
    this.#heartbeats.follow((id, lastSeen) => follower.heard(id, lastSeen));
    const early = this.#early ?? [];
    this.#early = undefined;
    const changes = new ViewChanges(
      {
        replica: this.#replica,
        keys: this.#keys,
        writes: this.#writes,
        sent: this.#sent,
        notes: this.#notes,
        replicas: this.#replicas,
        records: this.#records,
        heartbeats: this.#heartbeats,
        identities: this.#identities,
      },
      follower,
    );
    this.#changes = changes;
    for (const batch of early) changes.apply(batch);
  }

  /** Called for each batch of the view. Its values are views on a message, so they are decoded now. */
  #receive(batch: Batch): void {
    if (this.#listed) this.#listed.add(batch, this.#keys, this.#notes, this.#replicas);
    else if (batch.isReset) this.#abandon();
    else if (this.#changes) this.#changes.apply(batch);
    else this.#early!.push(batch);
  }

  /** Writes nothing of the history of this replica to a cluster with another one: without a session, every write fails. */
  #abandon(): void {
    this.#isClosed = true;
    this.#stop();
    this.#abandoning = this.#session.close();
    this.#onDeath('etcd was restored from a backup, or has another history for another reason');
  }

  #check(): void {
    const follower = this.#follower;
    if (!follower || this.#isClosed) return;
    const lists = this.#informer.lists + this.#heartbeats.lists;
    const wasListed = lists !== this.#lists;
    this.#lists = lists;
    this.#isCurrent = Math.max(this.#informer.age, this.#heartbeats.age) < MAX_AGE;
    const { missing } = this.#heartbeats;
    const hearsAll = this.#isCurrent && missing.length === 0;
    if (this.#hearsAll && (wasListed || !hearsAll)) follower.currencyChanged(false);
    if (hearsAll && (wasListed || !this.#hearsAll)) follower.currencyChanged(true);
    if (this.#hearsAll && this.#isCurrent && missing.length > 0)
      this.#onProblem(
        `no VM becomes stale here, because heartbeats of other replicas are missing: ${missing.join(', ')}`,
      );
    this.#hearsAll = hearsAll;
    this.#lateNotes.check();
    void this.#prune();
  }

  /** Removes the oldest notes of the journal if there are too many. */
  async #prune(): Promise<void> {
    const keys = this.#isPruning ? [] : this.#notes.excess();
    if (keys.length === 0) return;
    this.#isPruning = true;
    const mark: Op = {
      type: 'put',
      key: this.#keys.flush(this.#replica),
      value: encodeValue({ w: this.#writes.next() }, ''),
    };
    const removals = keys.map((key): Op => ({ type: 'delete', key }));
    await this.#transactions.commit({ compares: [], success: [mark, ...removals] }).catch(() => {});
    this.#isPruning = false;
  }
}
