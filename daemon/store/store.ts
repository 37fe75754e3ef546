/** The durable storage behind the registry. A store knows records; the rules are in `daemon/registry`. */
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';
import type { Position } from '../../src/protocol/position.ts';

/** A VM in the form in which it is stored. */
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

/** The journal's part of a change. */
export interface JournalNote {
  /** `token` for a change of access tokens only: it belongs to no VM's history. */
  type: ChangeType | 'token';
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by: string;
  changes: FieldChanges;
}

/**
 * A committed change: of one VM, which is written whole or removed, or of access tokens only. The revision grows by one with
 * each change.
 */
export type Change = ({ kind: 'put'; vm: StoredVm } | { kind: 'remove'; id: string } | { kind: 'token' }) &
  Position & {
    /** Tag of the change before this one. */
    previousTag: string;
    note: JournalNote;
    /** Committed in the same transaction. */
    records?: readonly RecordChange[];
  };

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
  /** Positions of the changes in the journal, oldest first. The last one is the current position. */
  positions: readonly Position[];
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
   * store is closing), TOO_MANY_REQUESTS (too many bytes are waiting), INTERNAL (also if the previous tag is not the stored one)
   */
  commit(change: Change): Promise<void>;
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
