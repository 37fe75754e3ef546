/** What the registry asks of durable storage. A store knows records, not rules. */
import type { ChangeType, FieldChanges, HistoryItem } from '../../src/protocol/events.ts';

/** A VM as it lies in the store. */
export interface StoredVm {
  id: string;
  /** Revision at which it was first registered: the order of `ls` and `discover`. */
  created: number;
  /** Revision of its last change. */
  revision: number;
  /** The entry as JSON, without `lastSeen`. */
  body: string;
  /** Last sign of life, wall clock, milliseconds since the epoch. */
  lastSeen: number;
  /** The same moment on the listening clock, in milliseconds. */
  heardAt: number;
}

/** What the journal keeps of a change. */
export interface Note {
  type: ChangeType;
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by: string;
  changes: FieldChanges;
}

/** One committed change: a VM put in whole, or taken away. Revisions grow by one from change to change. */
export type Change = ({ kind: 'put'; vm: StoredVm } | { kind: 'remove'; id: string }) & {
  revision: number;
  note: Note;
  /** Durable with the change, or not at all. */
  records?: readonly RecordChange[];
};

/** Records that are committed on their own. They have no revision: only changes of VMs do. */
export interface RecordCommit {
  kind: 'records';
  records: readonly RecordChange[];
}

/** A sign of life that is not a change. */
export type StoredHeartbeat = Pick<StoredVm, 'id' | 'lastSeen' | 'heardAt'>;

/** Something that the registry remembers besides VMs and changes; the store does not read its JSON. */
export interface StoredRecord {
  kind: 'identity' | 'conflict' | 'token';
  key: string;
  body: string;
}

/** One without a body is taken away. */
export type RecordChange = Omit<StoredRecord, 'body'> & { body: string | undefined };

/** Everything a store holds, as it is read at start. */
export interface Contents {
  /** Oldest registration first. */
  vms: StoredVm[];
  revision: number;
  records: StoredRecord[];
  /** Listening time at the last save, in milliseconds. */
  listened: number;
  /** Made once with the store, so that a client can tell one registry from another. */
  registryId: string;
}

export interface Store {
  /**
   * Makes one change durable. Changes become durable in the order of the calls, many in one sync.
   * When one fails, every change called for since fails with it: they were decided on what is now not so.
   * One that is not even taken (BUSY) is thrown at once, and not by the promise: no other change fails with it.
   * @throws VregError STORE_FULL (no room), STORE_FAILED (the disk refused), BUSY (too many waiting, or closing), INTERNAL
   */
  commit(change: Change): Promise<void>;
  /**
   * Makes records durable, all or none, in one group commit with the changes around it: in the order of the calls, and
   * failing with them.
   * @throws VregError as {@link commit}
   */
  commitRecords(records: readonly RecordChange[]): Promise<void>;
  /** Makes signs of life, what came with them, and the listening time durable, in one write. */
  saveHeartbeats(
    heartbeats: readonly StoredHeartbeat[],
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void>;
  /** The last changes of one VM, newest first, before a revision where one is given; also of one that has gone. */
  history(id: string, limit: number, before?: number): Promise<HistoryItem[]>;
  /**
   * Writes a consistent copy of everything into a file that is not there yet. Reads go on meanwhile, writes wait.
   * @throws VregError STORE_FULL, STORE_FAILED, BUSY (another is being made), INTERNAL
   */
  backup(path: string): Promise<void>;
  /** Waits for what was called for, then closes. */
  close(): Promise<void>;
}
