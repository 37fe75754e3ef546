/** The interface of the durable store. A store only handles records; the rules of the registry are in `daemon/registry`. */
import type { ReplicaInfo } from '../../src/protocol/api.ts';
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';
import type { Position } from '../../src/protocol/position.ts';

/** A stored VM. */
export interface StoredVm {
  id: string;
  /** Revision of its registration. `ls` and `discover` sort by it. */
  created: number;
  /** Revision of its last change. */
  revision: number;
  /** Tag of its last change. */
  tag: string;
  /** The entry as JSON, without `lastSeen`. */
  body: string;
  /** Last sign of life: wall clock, milliseconds since the epoch. */
  lastSeen: number;
  /** Last sign of life: listening clock, milliseconds. */
  heardAt: number;
}

/**
 * The part of a change that only the journal stores.
 * @template Changes the changed fields, or their JSON
 */
export interface JournalNote<Changes = FieldChanges> {
  /** `token` for a change to access tokens only, which is not in the history of any VM. */
  type: ChangeType | 'token';
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by: string;
  changes: Changes;
}

/**
 * A committed change, either to one VM, which is written completely or removed, or only to access tokens. Each change
 * increments the revision.
 * @template Changes as in {@link JournalNote}
 */
export type Change<Changes = FieldChanges> = (
  | { kind: 'put'; vm: StoredVm }
  | { kind: 'remove'; id: string }
  | { kind: 'token' }
) &
  Position & {
    /** Tag of the change before this one. With several replicas, the tag of the last one that this replica has applied. */
    previousTag: string;
    /** With several replicas, the revision of the entry that the change replaces or removes; 0 if there must be none. */
    replaces?: number;
    note: JournalNote<Changes>;
    /** Committed in the same transaction. */
    records?: readonly RecordChange[];
    /** With several replicas, a record without which the change must fail: another replica may have revoked the token. */
    requires?: Pick<StoredRecord, 'kind' | 'key'> | undefined;
  };

/** Calls a function with each item, in slices, between which the event loop serves other requests. */
export type ForEach = <T>(items: readonly T[], act: (item: T) => void) => Promise<void>;

/** A sign of life. It is not a change and has no revision. */
export type StoredHeartbeat = Pick<StoredVm, 'id' | 'lastSeen' | 'heardAt'>;

/** Data that the registry stores besides VMs and changes. The store does not interpret the body. */
export interface StoredRecord {
  kind: 'identity' | 'conflict' | 'token' | 'session' | 'lease' | 'other-registry' | 'trial';
  key: string;
  /** JSON. */
  body: string;
}

/** A record to write, or to remove if its body is undefined. */
export type RecordChange = Omit<StoredRecord, 'body'> & { body: string | undefined };

/** The contents of a store, which are read at start. */
export interface Contents<V = StoredVm> {
  /** All VMs, in no particular order. */
  vms: V[];
  revision: number;
  /** Revision before the first change of this history; 0 if it is left out. */
  start?: number;
  /** Positions of the changes in the journal, oldest first. The last one is the current position. */
  positions: readonly Position[];
  records: StoredRecord[];
  /** Listening time at the last save, in milliseconds. */
  listened: number;
  /** Random id, generated when the store is created, by which clients distinguish registries. */
  registryId: string;
}

/** The last change to a VM within a range of revisions. */
export interface LastChange extends Position {
  id: string;
  type: ChangeType;
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by: string;
  /** The last text fields of a VM that this change removed, otherwise empty. The journal truncates other large values. */
  removed: Readonly<Record<string, string>>;
}

/** A change that has become durable, of this replica or of another one. */
export interface Arrival {
  position: Position;
  /** The change, if this replica has committed it. */
  own: Change | undefined;
  /** The VM that it has changed; undefined for a change of access tokens only. */
  id: string | undefined;
  /**
   * The VM after the change; undefined if it was removed. A list may contain a later state instead; then the arrivals before it
   * have no {@link id}.
   */
  vm: StoredVm | undefined;
  note: Pick<JournalNote, 'type' | 'at' | 'by'>;
}

/** Receives what other replicas write to a shared store. Its methods must not throw. */
export interface Follower {
  /** Called for each change in the order of revisions, also for those of this replica, whose commit may resolve later. */
  arrived(arrival: Arrival): void;
  /** Called after the change that contains the records, except for those that this replica has written. */
  recordsArrived(records: readonly RecordChange[]): void;
  /** Another replica has heard a VM. @param lastSeen wall clock, milliseconds since the epoch */
  heard(id: string, lastSeen: number): void;
  /** Converts a stored time to listening time, for a backup. @param wall wall clock. Both in milliseconds */
  toListening(wall: number): number;
  /** Another replica needs the identity of a VM's agent. @returns its record; undefined if there is none */
  identityRequested(id: string): RecordChange | undefined;
  /** The view of the store may have missed heartbeats, or does so again until {@link isCurrent} is true. */
  currencyChanged(isCurrent: boolean): void;
}

/** The part of a store that several replicas write to. */
export interface Replication {
  /** Maximum number of milliseconds after which other replicas know of a heartbeat. */
  readonly flushInterval: number;
  /** Starts the delivery of what was committed after the {@link Contents} were read. */
  follow(follower: Follower): void;
  /**
   * Waits until every change that was committed before the call has arrived. @returns the store's revision
   * @throws VregError BUSY (the store does not respond), STORE_FAILED
   */
  refresh(): Promise<number>;
  /** True if this replica has accepted the last heartbeat that proved an identity of the VM. */
  ownsIdentity(id: string): boolean;
  /** Waits until the identity that another replica has accepted has arrived, but not for a replica that does not respond. */
  fetchIdentity(id: string): Promise<void>;
  /**
   * Writes the identity that this replica has accepted, and becomes its owner. While the store does not respond, it is written
   * later.
   * @returns false if another replica was first; its identity has arrived then
   */
  claimIdentity(record: RecordChange): Promise<boolean>;
  /** The replicas with a session, this one included, in a fixed order. */
  replicas(): ReplicaInfo[];
  /** Publishes where clients reach this replica. Never fails: while the store does not respond, it is published later. */
  publishUrl(url: string): void;
  /** Milliseconds for which changes of other replicas may not have arrived, because the store does not respond; else 0. */
  age(): number;
}

/** A change in the journal. */
export interface JournalItem extends HistoryItem {
  /** Negative if another store has assigned it, see restore-cluster.ts. Then it only orders the changes. */
  revision: number;
}

export interface Store {
  /** Undefined if this process is the only writer. */
  readonly replication?: Replication | undefined;
  /**
   * Makes a change durable. Changes become durable in the order of the calls, many of them with one sync. If one fails, all
   * changes that were queued after it also fail, because they were validated against the state that it would have created. If a
   * change is not accepted (BUSY, TOO_MANY_REQUESTS), the method throws instead of rejecting the promise, and no other change
   * fails.
   * @throws VregError STORE_FULL (no space left), STORE_FAILED (the disk returned an error), BUSY (too many changes are queued,
   * or the store is closing), TOO_MANY_REQUESTS (too many bytes are queued), INTERNAL (also if the previous tag is not the
   * stored one)
   *
   * With {@link replication}, each change succeeds or fails alone, the store chooses its revision, and `created: 0` in a VM, or in
   * the body of a record, stands for that revision.
   * @returns the position of the change; undefined if another replica has changed the same VM or token first, or has removed the
   * record that the change requires. The change of that replica has arrived then
   */
  commit(change: Change): Promise<Position | undefined>;
  /**
   * Makes many changes durable in one transaction: all of them or none. No other change may be committed until it is done.
   * @throws VregError as {@link commit}, always by rejecting the promise
   */
  commitAll(changes: readonly Change[], forEach: ForEach): Promise<void>;
  /**
   * Makes heartbeats, the listening time and optional records durable in one write. Reads the heartbeats in slices, between which
   * the event loop serves other requests.
   * @param listened milliseconds of listening time
   * @throws VregError STORE_FULL, STORE_FAILED, INTERNAL
   */
  saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void>;
  /**
   * Writes as much as a small change, and removes it again, which shows that changes can be stored.
   * @throws VregError as {@link saveHeartbeats}
   */
  tryWrite(): Promise<void>;
  /**
   * Reads a little, which shows that the store can be read.
   * @throws VregError STORE_FAILED, INTERNAL
   */
  read(): Promise<void>;
  /** Bytes that the store takes on disk; undefined if it is on another machine, or cannot be read. */
  size(): Promise<number | undefined>;
  /**
   * Reads the last changes to a VM, newest first, even if the VM was removed.
   * @param before return only changes with a lower revision
   */
  history(id: string, limit: number, before?: number): Promise<JournalItem[]>;
  /**
   * Reads the last change of each VM that changed within a range of revisions, oldest change first.
   * @param after the last revision before the range
   * @param until last revision of the range
   * @returns undefined if the journal no longer contains the first revision of the range
   */
  lastChanges(after: number, until: number): Promise<LastChange[] | undefined>;
  /**
   * Writes a consistent copy of the store to a new file. During this time, all other requests to an embedded store wait.
   * @param signal ends the copy. The worker of an embedded store finishes its part, which no signal can interrupt
   * @param onProgress called for each second in which the copy of an embedded store has grown
   * @throws VregError STORE_FULL, STORE_FAILED, BUSY (another backup is in progress), INTERNAL; the abort reason of the signal
   */
  backup(path: string, signal?: AbortSignal, onProgress?: () => void): Promise<void>;
  /** Waits for all pending writes, then closes. */
  close(): Promise<void>;
}
