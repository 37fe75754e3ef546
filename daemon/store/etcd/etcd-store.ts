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
import { withJournalText } from '../journal.ts';
import { backupInProgress } from '../sqlite-store.ts';
import type {
  Arrival,
  Change,
  Contents,
  Follower,
  JournalItem,
  LastChange,
  RecordChange,
  Replication,
  Store,
  StoredHeartbeat,
  StoredRecord,
  StoredVm,
} from '../store.ts';
import { backupCluster, cannotBackUp } from './backup-cluster.ts';
import { EtcdClient } from './etcd-client.ts';
import { EtcdError, toEtcdOpenError, toEtcdRuntimeError } from './etcd-error.ts';
import { decodeValue, EtcdKeys, encodeValue, LAYOUT_VERSION } from './etcd-keys.ts';
import type { EtcdTarget } from './etcd-url.ts';
import {
  type MetaHead,
  type NoteHead,
  NoteRing,
  Replicas,
  readNote,
  readRecord,
  readSilences,
  readVm,
  revisionOf,
} from './etcd-view.ts';
import { HeartbeatExchange } from './heartbeat-exchange.ts';
import { IdentityExchange } from './identity-exchange.ts';
import { type Batch, Informer, type WatchEvent } from './informer.ts';
import { type Compare, type Op, prefixEnd } from './messages.ts';
import { OwnWrites } from './own-writes.ts';
import { RecordWriter } from './record-writer.ts';
import { ReplicaSession } from './replica-session.ts';
import { Transactions } from './transaction.ts';

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

/** A change, and its transaction. */
interface Sent {
  change: Change;
  /** A removal without a note, because etcd has no space for one. */
  isBare?: boolean;
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
  readonly #onDeath: (reason: string) => void;
  /** Changes of this replica that have not arrived, by the id of their transaction. */
  readonly #sent = new Map<string, Sent>();
  /** Batches from before {@link Replication.follow}. */
  #early: Batch[] | undefined = [];
  #follower: Follower | undefined;
  #listed: Listed | undefined = new Listed();
  #genesis: Position = { revision: 0, tag: '' };
  #registryId = '';
  #inFlight = 0;
  #isCurrent = true;
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
    this.#keys = new EtcdKeys(target.prefix);
    this.#replica = kernelRandomHex(8);
    this.#writes = new OwnWrites(this.#replica);
    this.#onDeath = onDeath;
    this.#replicas = new Replicas(this.#keys);
    this.#informer = new Informer(client, this.#keys.state, { apply: (batch) => this.#receive(batch), onProblem });
    this.#session = new ReplicaSession(client, { key: this.#keys.replica(this.#replica), details, onProblem });
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
      if (!isFull || change.kind !== 'remove') throw this.#toRuntimeError(error);
      // etcd still deletes keys, but has no space for the note.
      return await this.#send(change, { isBare: true }).catch((bare: unknown) => {
        throw this.#toRuntimeError(bare);
      });
    } finally {
      this.#inFlight--;
    }
  }

  #toRuntimeError(error: unknown): unknown {
    return error instanceof EtcdError ? toEtcdRuntimeError('store the change', error) : error;
  }

  async #send(change: Change, { isBare = false }: { isBare?: boolean }): Promise<Position | undefined> {
    const write = this.#writes.next();
    const { compares, success, subject } = this.#transactionOf(change, write, isBare);
    const name = isBare ? subject : write;
    this.#sent.set(name, { change, isBare });
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

  #transactionOf(
    change: Change,
    write: string,
    isBare: boolean,
  ): { compares: Compare[]; success: Op[]; subject: string } {
    const { note, tag, records = [], requires } = change;
    const compares: Compare[] = [];
    const success: Op[] = [];
    const id = idOf(change) ?? '';
    const journal = this.#keys.journal(id, write);
    let subject = journal;
    if (change.kind !== 'token') {
      subject = this.#keys.vm(id);
      compares.push({ key: subject, modRevision: change.replaces ?? 0 });
    }
    if (requires) {
      // It exists, and is not a later record with the same key, which this replica does not know yet.
      const key = this.#keys.record(requires);
      compares.push({ key, createRevision: 0, result: '>' });
      const known = Math.max(this.#informer.revision, this.#records.revisionOf(key));
      compares.push({ key, createRevision: known + 1, result: '<' });
    }
    if (change.kind === 'put') {
      const { created, lastSeen, body } = change.vm;
      const value = encodeValue({ w: write, created, tag, seen: lastSeen }, body);
      success.push({ type: 'put', key: subject, value });
    } else if (change.kind === 'remove') {
      success.push({ type: 'delete', key: subject });
      success.push({ type: 'delete', key: this.#keys.record({ kind: 'identity', key: id }) });
    }
    for (const record of records) {
      const key = this.#keys.record(record);
      if (record.body === undefined) success.push({ type: 'delete', key });
      else {
        // A token that two replicas create with the same name at the same time; the marker of a closed registry is always the same.
        if (change.kind === 'token' && record.key !== '') {
          compares.push({ key, modRevision: this.#records.revisionOf(key) });
          subject = key;
        }
        success.push({ type: 'put', key, value: encodeValue({ w: write }, record.body) });
      }
    }
    if (!isBare) {
      const { type, at, by } = note;
      const head: NoteHead = { w: write, id, type, at, by, tag };
      success.push({ type: 'put', key: journal, value: encodeValue(head, withJournalText(change).note.changes) });
    }
    return { compares, success, subject };
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
    for (const batch of early) this.#apply(batch, follower);
  }

  /** Called for each batch of the view. Its values are views on a message, so they are decoded now. */
  #receive(batch: Batch): void {
    if (this.#listed) this.#listed.add(batch, this.#keys, this.#notes, this.#replicas);
    else if (batch.isReset) this.#abandon();
    else if (this.#follower) this.#apply(batch, this.#follower);
    else this.#early!.push(batch);
  }

  /** Writes nothing of the history of this replica to a cluster with another one: without a session, every write fails. */
  #abandon(): void {
    this.#isClosed = true;
    this.#stop();
    this.#abandoning = this.#session.close();
    this.#onDeath('etcd was restored from a backup, or has another history for another reason');
  }

  #apply({ events, source, revision }: Batch, follower: Follower): void {
    if (source === 'list') {
      this.#applyDifference(events, revision, follower);
      return;
    }
    let group: WatchEvent[] = [];
    for (const event of events) {
      if (group.length > 0 && group[0]!.revision !== event.revision) {
        this.#applyTransaction(group, follower);
        group = [];
      }
      group.push(event);
    }
    if (group.length > 0) this.#applyTransaction(group, follower);
  }

  /** Applies the events of one transaction. */
  #applyTransaction(events: readonly WatchEvent[], follower: Follower): void {
    const { revision } = events[0]!;
    let vm: { id: string; stored: StoredVm | undefined } | undefined;
    let write: string | undefined;
    let note: NoteHead | undefined;
    const records: RecordChange[] = [];
    const answered: string[] = [];
    for (const event of events) {
      const { key, kv } = event;
      const parsed = this.#keys.parse(key);
      if (parsed.type === 'vm') vm = { id: parsed.id, stored: kv && readVm(parsed.id, kv) };
      else if (parsed.type === 'journal') {
        if (kv) {
          const added = readNote(kv);
          this.#notes.add(added);
          note = added;
          write = added.w;
        } else this.#notes.delete(key);
      } else if (parsed.type === 'record') records.push(this.#recordOf(parsed.record, event));
      else if (parsed.type === 'replica') {
        if (kv) this.#replicas.put(key, kv.value);
        else this.#replicas.delete(parsed.replica);
      } else if (parsed.type === 'flush' && kv) write = decodeValue<{ w: string }>(kv.value).head.w;
      else if (parsed.type === 'request') {
        if (!kv) answered.push(key);
        else if (parsed.replica === this.#replica) this.#answer(parsed.id, event, follower);
      }
    }
    if (vm) {
      if (vm.stored) this.#heartbeats.addVm(vm.id, vm.stored.created);
      else this.#heartbeats.deleteVm(vm.id);
    }
    if (note || vm) this.#arrive({ revision, vm, note }, follower);
    if (records.length > 0 && !(write !== undefined && this.#writes.isOwn(write))) follower.recordsArrived(records);
    if (write !== undefined) this.#writes.arrived(write);
    for (const key of answered) this.#identities.answered(key);
  }

  /** Another replica has received a heartbeat of a VM whose identity this one knows. */
  #answer(id: string, { key, kv }: WatchEvent, follower: Follower): void {
    const asker = decodeValue(kv!.value).text;
    void this.#identities.answer(id, asker, follower.identityRequested(id), key);
  }

  #arrive(
    {
      revision,
      vm,
      note,
    }: { revision: number; vm: { id: string; stored: StoredVm | undefined } | undefined; note: NoteHead | undefined },
    follower: Follower,
  ): void {
    const name = note?.w ?? this.#keys.vm(vm!.id);
    const own = this.#sent.get(name)?.change;
    this.#sent.delete(name);
    const tag = note?.tag ?? vm?.stored?.tag ?? bareTag(name, revision);
    const id = note ? note.id || undefined : vm!.id;
    const type = note?.type ?? (vm?.stored ? 'updated' : 'deregistered');
    const arrival: Arrival = {
      position: { revision, tag },
      own,
      id,
      vm: vm?.stored,
      note: { type, at: note?.at ?? Date.now(), by: note?.by ?? UNKNOWN_AUTHOR },
    };
    follower.arrived(arrival);
  }

  #recordOf(record: Pick<StoredRecord, 'kind' | 'key'>, { key, kv, revision }: WatchEvent): RecordChange {
    this.#records.seen(key, revision);
    const stored = kv && readRecord(record, kv);
    if (record.kind === 'identity' && !(stored && this.#writes.isOwn(stored.write)))
      this.#identities.arrived(record.key, stored?.write);
    return { ...record, body: stored?.body };
  }

  /** Applies the difference to a list, after changes were compacted. Intermediate states of a VM are lost. */
  #applyDifference(events: readonly WatchEvent[], revision: number, follower: Follower): void {
    const vms = new Map<string, StoredVm | undefined>();
    const notes: (NoteHead & { revision: number })[] = [];
    const records: RecordChange[] = [];
    for (const event of events) {
      const { key, kv } = event;
      const parsed = this.#keys.parse(key);
      if (parsed.type === 'vm') vms.set(parsed.id, kv && readVm(parsed.id, kv));
      else if (parsed.type === 'journal') {
        if (!kv) this.#notes.delete(key);
        else {
          const note = readNote(kv);
          notes.push(note);
          this.#notes.add(note);
        }
      } else if (parsed.type === 'record') records.push(this.#recordOf(parsed.record, event));
      else if (parsed.type === 'replica') {
        if (kv) this.#replicas.put(key, kv.value);
        else this.#replicas.delete(parsed.replica);
      }
    }
    this.#notes.sort();
    notes.sort((a, b) => a.revision - b.revision);
    const last = new Map(notes.map((note) => [note.id, note]));
    // VMs whose notes are no longer in the journal have changed before those whose notes are.
    const older = [...vms].filter(([id]) => !last.has(id));
    older.sort(([, a], [, b]) => (a?.revision ?? 0) - (b?.revision ?? 0));
    for (const [id, stored] of older) {
      if (stored) this.#heartbeats.addVm(id, stored.created);
      else this.#heartbeats.deleteVm(id);
      const at = Math.min(stored?.revision ?? 0, notes[0]?.revision ?? revision) || revision;
      this.#arrive({ revision: at, vm: { id, stored }, note: undefined }, follower);
    }
    for (const note of notes) {
      const isLast = last.get(note.id) === note && vms.has(note.id);
      const stored = vms.get(note.id);
      if (isLast && stored) this.#heartbeats.addVm(note.id, stored.created);
      if (isLast && !stored) this.#heartbeats.deleteVm(note.id);
      const vm = isLast ? { id: note.id, stored } : undefined;
      this.#arrive({ revision: note.revision, vm, note: isLast ? note : { ...note, id: '' } }, follower);
    }
    if (records.length > 0) follower.recordsArrived(records);
  }

  #check(): void {
    const follower = this.#follower;
    if (!follower || this.#isClosed) return;
    const lists = this.#informer.lists + this.#heartbeats.lists;
    const wasListed = lists !== this.#lists;
    this.#lists = lists;
    const isCurrent = Math.max(this.#informer.age, this.#heartbeats.age) < MAX_AGE;
    if (this.#isCurrent && (wasListed || !isCurrent)) follower.currencyChanged(false);
    if (isCurrent && (wasListed || !this.#isCurrent)) follower.currencyChanged(true);
    this.#isCurrent = isCurrent;
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

/** The author of a change whose note is no longer in the journal. */
const UNKNOWN_AUTHOR = 'unknown';

/**
 * The contents of the first list. If etcd was away or compacted its revision, the list was read again: keys that were removed
 * meanwhile are reported as deleted.
 */
class Listed {
  meta: { head: MetaHead; revision: number } | undefined;
  silences: Silence[] = [];
  readonly vms = new Map<string, StoredVm & { write: string }>();
  /** By their keys in etcd. */
  readonly #records = new Map<string, StoredRecord & { write: string }>();

  get records(): (StoredRecord & { write: string })[] {
    return [...this.#records.values()];
  }

  add({ events }: Batch, keys: EtcdKeys, notes: NoteRing, replicas: Replicas): void {
    for (const { key, kv } of events) {
      const parsed = keys.parse(key);
      if (!kv) {
        if (parsed.type === 'meta') this.meta = undefined;
        else if (parsed.type === 'vm') this.vms.delete(parsed.id);
        else if (parsed.type === 'journal') notes.delete(key);
        else if (parsed.type === 'record') this.#records.delete(key);
        else if (parsed.type === 'replica') replicas.delete(parsed.replica);
      } else if (parsed.type === 'meta') {
        this.meta = { head: decodeValue<MetaHead>(kv.value).head, revision: kv.modRevision };
      } else if (parsed.type === 'silences') this.silences = readSilences(kv.value);
      else if (parsed.type === 'vm') this.vms.set(parsed.id, readVm(parsed.id, kv));
      else if (parsed.type === 'journal') notes.add(readNote(kv));
      else if (parsed.type === 'record') this.#records.set(key, readRecord(parsed.record, kv));
      else if (parsed.type === 'replica') replicas.put(key, kv.value);
    }
  }
}

function idOf(change: Change): string | undefined {
  if (change.kind === 'put') return change.vm.id;
  return change.kind === 'remove' ? change.id : undefined;
}

/** The tag of a removal without a note, which every replica computes alike. */
function bareTag(key: string, revision: number): string {
  return tagOf(key, String(revision));
}
