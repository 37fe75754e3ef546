/** The transaction of a change: it compares the revision of the VM's key, and writes the note of the journal, too. */
import { tagOf } from '../../../src/protocol/position.ts';
import { withJournalText } from '../journal.ts';
import type { Change } from '../store.ts';
import { type EtcdKeys, encodeValue } from './etcd-keys.ts';
import type { NoteHead } from './etcd-view.ts';
import type { Compare, Op } from './messages.ts';

/** Revisions of the store as far as this replica knows them. */
export interface KnownRevisions {
  /** Revision of the view. */
  revision: number;
  /** As {@link RecordWriter.revisionOf}. */
  revisionOf(key: string): number;
}

export interface ChangeTransaction {
  compares: Compare[];
  success: Op[];
  /** The key that another change may have written first. */
  subject: string;
}

/**
 * @param write id of the transaction
 * @param isBare a removal without a note, because etcd has no space for one
 */
export function transactionOf(
  change: Change,
  write: string,
  isBare: boolean,
  keys: EtcdKeys,
  known: KnownRevisions,
): ChangeTransaction {
  const { note, tag, records = [], requires } = change;
  const compares: Compare[] = [];
  const success: Op[] = [];
  const id = idOf(change) ?? '';
  const journal = keys.journal(id, write);
  let subject = journal;
  if (change.kind !== 'token') {
    subject = keys.vm(id);
    compares.push({ key: subject, modRevision: change.replaces ?? 0 });
  }
  if (requires) {
    // It exists, and is not a later record with the same key, which this replica does not know yet.
    const key = keys.record(requires);
    compares.push({ key, createRevision: 0, result: '>' });
    const revision = Math.max(known.revision, known.revisionOf(key));
    compares.push({ key, createRevision: revision + 1, result: '<' });
  }
  if (change.kind === 'put') {
    const { created, lastSeen, body } = change.vm;
    const value = encodeValue({ w: write, created, tag, seen: lastSeen }, body);
    success.push({ type: 'put', key: subject, value });
  } else if (change.kind === 'remove') {
    success.push({ type: 'delete', key: subject });
    success.push({ type: 'delete', key: keys.record({ kind: 'identity', key: id }) });
  }
  for (const record of records) {
    const key = keys.record(record);
    if (record.body === undefined) success.push({ type: 'delete', key });
    else {
      // A token that two replicas create with the same name at the same time; the marker of a closed registry is always the same.
      if (change.kind === 'token' && record.key !== '') {
        compares.push({ key, modRevision: known.revisionOf(key) });
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

function idOf(change: Change): string | undefined {
  if (change.kind === 'put') return change.vm.id;
  return change.kind === 'remove' ? change.id : undefined;
}

/** The tag of a removal without a note, which every replica computes alike. */
export function bareTag(key: string, revision: number): string {
  return tagOf(key, String(revision));
}
