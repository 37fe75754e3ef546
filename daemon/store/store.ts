/** The interface of the durable store. A store only handles records; the rules of the registry are in `daemon/registry`. */
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
    /** Tag of the change before this one. */
    previousTag: string;
    note: JournalNote<Changes>;
    /** Committed in the same transaction. */
    records?: readonly RecordChange[];
  };

/** Calls a function with each item, in slices, between which the event loop serves other requests. */
export type ForEach = <T>(items: readonly T[], act: (item: T) => void) => Promise<void>;

/** A sign of life. It is not a change and has no revision. */
export type StoredHeartbeat = Pick<StoredVm, 'id' | 'lastSeen' | 'heardAt'>;

/** Data that the registry stores besides VMs and changes. The store does not interpret the body. */
export interface StoredRecord {
  kind: 'identity' | 'conflict' | 'token' | 'lease' | 'other-registry';
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

export interface Store {
  /**
   * Makes a change durable. Changes become durable in the order of the calls, many of them with one sync. If one fails, all
   * changes that were queued after it also fail, because they were validated against the state that it would have created. If a
   * change is not accepted (BUSY, TOO_MANY_REQUESTS), the method throws instead of rejecting the promise, and no other change
   * fails.
   * @throws VregError STORE_FULL (no space left), STORE_FAILED (the disk returned an error), BUSY (too many changes are queued,
   * or the store is closing), TOO_MANY_REQUESTS (too many bytes are queued), INTERNAL (also if the previous tag is not the
   * stored one)
   */
  commit(change: Change): Promise<void>;
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
   * Reads the last changes to a VM, newest first, even if the VM was removed.
   * @param before return only changes with a lower revision
   */
  history(id: string, limit: number, before?: number): Promise<HistoryItem[]>;
  /**
   * Reads the last change of each VM that changed within a range of revisions, oldest change first.
   * @param after the last revision before the range
   * @param until last revision of the range
   * @returns undefined if the journal no longer contains the first revision of the range
   */
  lastChanges(after: number, until: number): Promise<LastChange[] | undefined>;
  /**
   * Writes a consistent copy of the store to a new file. During this time, reads continue and writes wait.
   * @throws VregError STORE_FULL, STORE_FAILED, BUSY (another backup is in progress), INTERNAL
   */
  backup(path: string): Promise<void>;
  /** Waits for all pending writes, then closes. */
  close(): Promise<void>;
}
