/** The durable storage behind the registry. A store knows records; the rules are in `daemon/registry`. */
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';

/** A VM in the form in which it is stored. */
export interface StoredVm {
  id: string;
  /** Revision of its registration. `ls` and `discover` sort by it. */
  created: number;
  /** Revision of its last change. */
  revision: number;
  /** The entry as JSON, without `lastSeen`. */
  body: string;
  /** Last sign of life: wall clock, milliseconds since the epoch. */
  lastSeen: number;
  /** Last sign of life: listening clock, milliseconds. */
  heardAt: number;
}

/** The journal's part of a change. */
export interface JournalNote {
  type: ChangeType;
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by: string;
  changes: FieldChanges;
}

/** A committed change of one VM: it is written whole, or removed. The revision grows by one with each change. */
export type Change = ({ kind: 'put'; vm: StoredVm } | { kind: 'remove'; id: string }) & {
  revision: number;
  note: JournalNote;
  /** Committed in the same transaction. */
  records?: readonly RecordChange[];
};

/** Records that are committed on their own. They have no revision: only changes of VMs do. */
export interface RecordCommit {
  kind: 'records';
  records: readonly RecordChange[];
}

/** A sign of life. It is not a change and has no revision. */
export type StoredHeartbeat = Pick<StoredVm, 'id' | 'lastSeen' | 'heardAt'>;

/** Anything that the registry remembers besides VMs and changes. The store does not interpret the body. */
export interface StoredRecord {
  kind: 'identity' | 'conflict' | 'token' | 'lease';
  key: string;
  /** JSON. */
  body: string;
}

/** A record to write, or to remove if its body is undefined. */
export type RecordChange = Omit<StoredRecord, 'body'> & { body: string | undefined };

/** Everything in a store, as it is read at start. */
export interface Contents {
  /** Oldest registration first. */
  vms: StoredVm[];
  revision: number;
  records: StoredRecord[];
  /** Listening time at the last save, in milliseconds. */
  listened: number;
  /** Generated when the store is created, so that a client can tell two registries apart. */
  registryId: string;
}

export interface Store {
  /**
   * Makes one change durable. Changes become durable in the order of the calls, many of them in one sync. If one fails, all
   * changes that were queued behind it fail too, because they were decided on the state that it would have created.
   * A change that is not accepted (BUSY, TOO_MANY_REQUESTS) is thrown at once instead of rejecting the promise; no other
   * change fails with it.
   * @throws VregError STORE_FULL (no space left), STORE_FAILED (the disk refused), BUSY (too many changes are waiting, or the
   * store is closing), TOO_MANY_REQUESTS (too many bytes are waiting), INTERNAL
   */
  commit(change: Change): Promise<void>;
  /**
   * Makes records durable, all or none, in one group commit with the changes around them: in the order of the calls, and
   * failing with them.
   * @throws VregError as {@link commit}
   */
  commitRecords(records: readonly RecordChange[]): Promise<void>;
  /**
   * Makes heartbeats, the listening time and optional records durable in one write.
   * @param listened milliseconds of listening time
   * @throws VregError STORE_FULL, STORE_FAILED, INTERNAL
   */
  saveHeartbeats(
    heartbeats: readonly StoredHeartbeat[],
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void>;
  /**
   * Reads the last changes of one VM, newest first. Removed VMs have a history too.
   * @param before return only changes below this revision
   */
  history(id: string, limit: number, before?: number): Promise<HistoryItem[]>;
  /**
   * Writes a consistent copy of the store into a new file. Reads continue meanwhile; writes wait.
   * @throws VregError STORE_FULL, STORE_FAILED, BUSY (another backup is in progress), INTERNAL
   */
  backup(path: string): Promise<void>;
  /** Waits for all pending writes, then closes. */
  close(): Promise<void>;
}
