/**
 * A store that several replicas write to, without a server. A test decides when a commit is executed, and when each replica
 * receives the changes of the others.
 */
import { VmRecord } from '../../daemon/registry/vm-record.ts';
import type {
  Arrival,
  Change,
  Contents,
  Follower,
  JournalItem,
  RecordChange,
  Replication,
  StoredHeartbeat,
  StoredVm,
} from '../../daemon/store/store.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { formatPosition, type Position } from '../../src/protocol/position.ts';
import { MemoryStore } from './memory-store.ts';

/** Revisions between two changes, because other keys of the store have revisions, too. */
const STEP = 3;

interface Committed {
  by: ReplicaStore;
  change: Change;
  position: Position;
}

export class FakeCluster {
  readonly vms = new Map<string, StoredVm>();
  readonly records = new Map<string, RecordChange & { revision: number }>();
  readonly log: Committed[] = [];
  readonly genesis: Position = { revision: 5, tag: 'f'.repeat(16) };
  readonly replicas: ReplicaStore[] = [];
  /** The replica that has accepted the last proof of each VM. */
  readonly owners = new Map<string, ReplicaStore>();
  /** Commits that wait for {@link execute}; undefined to execute each immediately. */
  waiting: (() => void)[] | undefined;
  /** The store does not respond. */
  isAway = false;
  revision = this.genesis.revision;

  /** A replica that starts now. */
  replica(): ReplicaStore {
    const replica = new ReplicaStore(this);
    this.replicas.push(replica);
    return replica;
  }

  /** Executes a waiting commit. */
  execute(index = 0): void {
    this.waiting!.splice(index, 1)[0]!();
  }

  /** @returns undefined if another change was first */
  commit(change: Change, by: ReplicaStore): number | undefined {
    if (this.isAway) throw away();
    const id = idOf(change);
    if (id !== undefined && (this.vms.get(id)?.revision ?? 0) !== change.replaces) return undefined;
    const added = (change.records ?? []).filter(({ body }) => body !== undefined);
    const isTaken = ({ kind, key }: RecordChange) => key !== '' && this.records.has(`${kind} ${key}`);
    if (change.kind === 'token' && added.some(isTaken)) return undefined;
    this.revision += STEP;
    const { revision } = this;
    if (change.kind === 'put') {
      const created = change.vm.created || revision;
      this.vms.set(change.vm.id, { ...change.vm, created, revision });
    } else if (change.kind === 'remove') this.vms.delete(change.id);
    const position = { revision, tag: change.tag };
    const committed = { by, change, position };
    this.log.push(committed);
    const records = this.write(change.records ?? [], revision);
    const vm = id === undefined ? undefined : this.vms.get(id);
    for (const replica of this.replicas) replica.send(committed, vm && { ...vm }, replica === by ? [] : records);
    return revision;
  }

  /** Stores records. @returns them as other replicas receive them */
  write(records: readonly RecordChange[], revision: number): RecordChange[] {
    return records.map((record) => {
      const body = record.body?.replace('"created":0', `"created":${revision}`);
      const key = `${record.kind} ${record.key}`;
      if (body === undefined) this.records.delete(key);
      else this.records.set(key, { ...record, body, revision });
      return { ...record, body };
    });
  }
}

export class ReplicaStore extends MemoryStore {
  readonly #cluster: FakeCluster;
  readonly #inbox: (() => void)[] = [];
  #follower: Follower | undefined;
  /** It does not answer other replicas. */
  isDead = false;
  override readonly replication: Replication = {
    flushInterval: 1000,
    follow: (follower) => {
      this.#follower = follower;
    },
    refresh: async () => {
      await Promise.resolve();
      if (this.#cluster.isAway) throw away();
      this.deliver();
      return this.#cluster.revision;
    },
    ownsIdentity: (id) => this.#cluster.owners.get(id) === this,
    fetchIdentity: async (id) => {
      const owner = this.#cluster.owners.get(id);
      if (!owner || owner === this || owner.isDead) return;
      const record = owner.#follower!.identityRequested(id);
      if (record) this.#follower!.recordsArrived([record]);
    },
    claimIdentity: async (record) => {
      this.#cluster.owners.set(record.key, this);
      this.#cluster.write([record], this.#cluster.revision);
      return true;
    },
    replicas: () => [],
    publishUrl: () => {},
    age: () => (this.#cluster.isAway ? 5000 : 0),
  };

  constructor(cluster: FakeCluster) {
    super();
    this.#cluster = cluster;
  }

  /** Number of changes that have not arrived. */
  get lag(): number {
    return this.#inbox.length;
  }

  send({ by, change, position }: Committed, vm: StoredVm | undefined, records: readonly RecordChange[]): void {
    const { type, at, by: author } = change.note;
    const arrival: Arrival = {
      position,
      own: by === this ? change : undefined,
      id: idOf(change),
      vm,
      note: { type, at, by: author },
    };
    this.#inbox.push(() => {
      this.#follower!.arrived(arrival);
      if (records.length > 0) this.#follower!.recordsArrived(records);
    });
  }

  /** Lets changes arrive. */
  deliver(count = this.#inbox.length): void {
    for (const arrive of this.#inbox.splice(0, count)) arrive();
  }

  /** Notifies the registry that heartbeats of other replicas do, or do not, arrive. */
  setCurrent(isCurrent: boolean): void {
    this.#follower!.currencyChanged(isCurrent);
  }

  override async commit(change: Change): Promise<Position> {
    const { waiting } = this.#cluster;
    if (waiting) await new Promise<void>((resolve) => waiting.push(resolve));
    else await Promise.resolve();
    const revision = this.#cluster.commit(change, this);
    if (revision === undefined) this.deliver();
    return (revision === undefined ? undefined : { revision, tag: change.tag }) as Position;
  }

  override async commitAll(): Promise<void> {
    throw new Error('a shared store commits each change alone');
  }

  override async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    _listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    const others = this.#cluster.replicas.filter((replica) => replica !== this);
    for (const { id, lastSeen } of heartbeats) {
      // The store has seconds.
      const seconds = 1000 * Math.floor(lastSeen / 1000);
      for (const other of others) other.#inbox.push(() => other.#follower!.heard(id, seconds));
    }
    const written = this.#cluster.write(records, this.#cluster.revision);
    for (const other of others) other.#inbox.push(() => other.#follower!.recordsArrived(written));
  }

  override async history(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): Promise<JournalItem[]> {
    const items = this.#cluster.log.flatMap(({ change, position }): JournalItem[] => {
      if (idOf(change) !== id || position.revision >= before || change.note.type === 'token') return [];
      const { type, at, by, changes } = change.note;
      const { revision } = position;
      return [{ revision, position: formatPosition(position), at: new Date(at).toISOString(), type, by, changes }];
    });
    return items.reverse().slice(0, limit);
  }

  override contents(): Contents<VmRecord> {
    const { vms, log, genesis, records } = this.#cluster;
    const positions = [genesis, ...log.map(({ position }) => position)];
    const stored = [...records.values()].map(({ kind, key, body }) => ({ kind, key, body: body! }));
    const { revision } = positions.at(-1)!;
    const all = [...vms.values()].map((vm) => VmRecord.fromStored({ ...vm, heardAt: 0 }));
    return { vms: all, revision, positions, records: stored, listened: 0, registryId: 'cluster' };
  }
}

function idOf(change: Change): string | undefined {
  if (change.kind === 'put') return change.vm.id;
  return change.kind === 'remove' ? change.id : undefined;
}

function away(): VregError {
  return new VregError('STORE_FAILED', 'the store does not respond', { retryAfter: 1 });
}
