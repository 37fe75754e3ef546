/**
 * A registry in etcd with the interface of the store in memory. Tests look at a copy of what has arrived; a restart reads
 * etcd again.
 */
import { VmRecord } from '../../daemon/registry/vm-record.ts';
import { type EtcdContents, EtcdStore } from '../../daemon/store/etcd/etcd-store.ts';
import { parseEtcdUrl } from '../../daemon/store/etcd/etcd-url.ts';
import type {
  Change,
  Contents,
  Follower,
  JournalItem,
  LastChange,
  RecordChange,
  Replication,
  StoredHeartbeat,
  StoredVm,
} from '../../daemon/store/store.ts';
import type { Position } from '../../src/protocol/position.ts';
import { MemoryStore } from './memory-store.ts';

/** Milliseconds between two flushes of heartbeats. */
const FLUSH_INTERVAL = 1000;

export class EtcdTestStore extends MemoryStore {
  readonly #url: string;
  readonly #now: () => number;
  readonly #store: EtcdStore;
  readonly #contents: EtcdContents<VmRecord>;
  override readonly replication: Replication;
  #isFollowed = false;
  #closed: Promise<void> | undefined;

  static async open(url: string, now: () => number): Promise<EtcdTestStore> {
    const fail = (reason: string) => {
      throw new Error(reason);
    };
    const { store, contents } = await EtcdStore.open({
      target: parseEtcdUrl(url),
      flushInterval: FLUSH_INTERVAL,
      details: {},
      decode: (vm) => VmRecord.fromStored(vm),
      onProblem: () => {},
      onDeath: fail,
      now,
    });
    return new EtcdTestStore(url, now, store, contents);
  }

  private constructor(url: string, now: () => number, store: EtcdStore, contents: EtcdContents<VmRecord>) {
    super();
    this.#url = url;
    this.#now = now;
    this.#store = store;
    this.#contents = contents;
    for (const entry of contents.vms) this.vms.set(entry.id, entry.toStored());
    for (const record of contents.records) this.records.set(`${record.kind} ${record.key}`, record);
    this.positions.splice(0, 1, ...contents.positions);
    this.replication = {
      ...store.replication,
      follow: (follower) => {
        this.#isFollowed = true;
        store.replication.follow(this.#observe(follower));
      },
    };
  }

  override async reopen(): Promise<EtcdTestStore> {
    await this.close();
    return EtcdTestStore.open(this.#url, this.#now);
  }

  #observe(follower: Follower): Follower {
    return {
      toListening: follower.toListening,
      identityRequested: (id) => follower.identityRequested(id),
      currencyChanged: (isCurrent) => follower.currencyChanged(isCurrent),
      heard: (id, lastSeen) => follower.heard(id, lastSeen),
      arrived: (arrival) => {
        const { id, vm, position } = arrival;
        this.#copy(position, id, vm);
        follower.arrived(arrival);
      },
      recordsArrived: (records) => {
        this.saveRecords(records);
        follower.recordsArrived(records);
      },
    };
  }

  /** A change arrives twice: with the answer of its transaction, and with the watch. */
  #copy(position: Position, id: string | undefined, vm: StoredVm | undefined): void {
    const after = this.positions.findLastIndex(({ revision }) => revision <= position.revision);
    if (this.positions[after]?.revision === position.revision) return;
    this.positions.splice(after + 1, 0, position);
    if (id !== undefined && vm) this.vms.set(id, vm);
    else if (id !== undefined) this.vms.delete(id);
  }

  override async commit(change: Change): Promise<Position> {
    if (this.failure) throw this.failure;
    const position = await this.#store.commit(change);
    // The answer of etcd may be faster than its watch. The suites expect the events of a change when its call returns.
    if (this.#isFollowed) await this.#store.replication.refresh();
    if (position) {
      this.saveRecords(change.records ?? []);
      const { revision } = position;
      if (change.kind === 'put')
        this.#copy(position, change.vm.id, { ...change.vm, created: change.vm.created || revision, revision });
      else this.#copy(position, change.kind === 'remove' ? change.id : undefined, undefined);
    }
    // The registry handles undefined; the type of the store in memory has no replicas.
    return position as Position;
  }

  override commitAll(): Promise<void> {
    return this.#store.commitAll();
  }

  override async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    await this.#store.saveHeartbeats(heartbeats, listened, records);
    this.saveRecords(records);
  }

  override async tryWrite(): Promise<void> {
    if (this.failure) throw this.failure;
    await this.#store.tryWrite();
  }

  override history(id: string, limit: number, before?: number): Promise<JournalItem[]> {
    return this.#store.history(id, limit, before);
  }

  override lastChanges(after: number, until: number): Promise<LastChange[] | undefined> {
    return this.#store.lastChanges(after, until);
  }

  override backup(path?: string, signal?: AbortSignal): Promise<void> {
    return this.#store.backup(path ?? '', signal);
  }

  override close(): Promise<void> {
    this.#closed ??= this.#store.close();
    return this.#closed;
  }

  /** The contents of the store at the time when it was opened. */
  override contents(): Contents<VmRecord> {
    return this.#contents;
  }
}
