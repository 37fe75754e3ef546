/**
 * Notes of removals for which etcd had no space. They are written when it has space again, so that the history contains the
 * removals, and a replica that starts later knows their positions.
 */
import type { Position } from '../../../src/protocol/position.ts';
import { withJournalText } from '../journal.ts';
import type { Change } from '../store.ts';
import { EtcdError } from './etcd-error.ts';
import { type EtcdKeys, encodeValue } from './etcd-keys.ts';
import type { NoteHead } from './etcd-view.ts';
import type { Op } from './messages.ts';
import type { OwnWrites } from './own-writes.ts';
import type { Transactions } from './transaction.ts';

/** Notes per transaction. etcd accepts 128 operations by default. */
const MAX_NOTES = 50;
/** Milliseconds between two attempts. */
const INTERVAL = 1000;

export class LateNotes {
  readonly #transactions: Pick<Transactions, 'commit'>;
  readonly #keys: EtcdKeys;
  readonly #writes: OwnWrites;
  readonly #now: () => number;
  /** Oldest removal first. An attempt with an unknown outcome is repeated with the same keys and values. */
  readonly #notes: Op[] = [];
  /** When the last attempt ended, in monotonic milliseconds. */
  #triedAt = Number.NEGATIVE_INFINITY;
  #writing: Promise<void> | undefined;

  constructor(
    transactions: Pick<Transactions, 'commit'>,
    keys: EtcdKeys,
    writes: OwnWrites,
    now: () => number = () => performance.now(),
  ) {
    this.#transactions = transactions;
    this.#keys = keys;
    this.#writes = writes;
    this.#now = now;
  }

  /** @param change a removal that was committed at this position without a note */
  add(change: Change & { kind: 'remove' }, { revision, tag }: Position): void {
    const { id, note } = change;
    const { type, at, by } = note;
    const w = this.#writes.next();
    const head: NoteHead = { w, id, type, at, by, tag, revision };
    const value = encodeValue(head, withJournalText(change).note.changes);
    this.#notes.push({ type: 'put', key: this.#keys.journal(id, w), value });
  }

  /** Starts to write the notes, at most once per interval. */
  check(): void {
    if (this.#now() - this.#triedAt >= INTERVAL) void this.write();
  }

  /** Writes the notes. Never fails: they remain if etcd has no space or does not respond. */
  write(): Promise<void> {
    this.#writing ??= this.#write().finally(() => {
      this.#triedAt = this.#now();
      this.#writing = undefined;
    });
    return this.#writing;
  }

  async #write(): Promise<void> {
    try {
      while (this.#notes.length > 0) {
        const success = this.#notes.slice(0, MAX_NOTES);
        await this.#transactions.commit({ compares: [], success });
        this.#notes.splice(0, success.length);
      }
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
    }
  }
}
