/** Converts what two engines store differently, when a backup moves a registry from one to the other. */

import type { Contents, JournalItem, StoredRecord } from './store.ts';

/** All of a registry. */
export interface BackupContents extends Contents {
  /** The changes in the journal, by the id of the VM, newest first. */
  history: ReadonlyMap<string, readonly JournalItem[]>;
}

/** How the numbers in a record change. */
export interface Conversion {
  /** Converts the revision of a registration. */
  revision(created: number): number;
  /** Converts a time between the listening clock and the wall clock, in milliseconds. */
  time(stored: number): number;
}

/** Tokens and identities name the registration of their VM by its revision. */
const REVISION = 'created';
/** Fields of identities and conflicts with a time on the listening clock, or in a shared store on the wall clock. */
const TIMES: ReadonlySet<string> = new Set(['heardAt', 'until', 'refusedAt']);

export function convertRecord(record: StoredRecord, { revision, time }: Conversion): StoredRecord {
  const hasTimes = record.kind === 'identity' || record.kind === 'conflict';
  if (record.kind !== 'token' && !hasTimes) return record;
  const convert = (key: string, value: unknown): unknown => {
    if (typeof value !== 'number') return value;
    if (key === REVISION) return revision(value);
    return hasTimes && TIMES.has(key) ? time(value) : value;
  };
  return { ...record, body: JSON.stringify(JSON.parse(record.body, convert)) };
}
