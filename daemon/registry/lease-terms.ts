/**
 * The duration of a lease, and the recent pauses of the daemon, in this run and in the previous one. They determine which last
 * signs of life are doubtful: the VM may have died since then, although its lease has not expired.
 */
import type { Clock, Gap } from '../clock.ts';
import type { RecordQueue } from './record-queue.ts';
import type { VmRecord } from './vm-record.ts';

/** Maximum number of pauses to remember. A daemon that is paused every second would otherwise store thousands in one lease. */
const MAX_PAUSES = 100;

/** Key of the record that holds {@link StoredTerms}. No VM has it, because the id of a VM is never empty. */
export const TERMS = '';

interface StoredTerms {
  /** Milliseconds of listening time. */
  lease: number;
  /** Listening time of the start at which the lease became shorter. */
  since?: number;
  /** Pauses of the daemon within the last lease duration. */
  pauses: readonly Gap[];
  /** The VMs that were in doubt when the lease became shorter. A full lease at `since` has replaced their last sign of life. */
  inDoubt?: readonly string[];
}

export class LeaseTerms {
  /** Length of a lease in milliseconds of listening time (excludes time when the registry was down or paused). */
  readonly lease: number;
  readonly #clock: Clock;
  readonly #records: RecordQueue;
  /** The last gap that was noticed. */
  #gap: Gap | undefined;
  /** Pauses of the daemon within the last lease. A heartbeat that arrived right after one may have waited in the kernel. */
  #pauses: readonly Gap[] = [];
  #since = 0;
  /** Ids as in {@link StoredTerms}. */
  #inDoubt: ReadonlySet<string> = new Set();

  constructor(lease: number, clock: Clock, records: RecordQueue) {
    this.lease = lease;
    this.#clock = clock;
    this.#records = records;
  }

  /**
   * Continues with the terms of the previous run.
   * @param stored body of the record
   * @param now time of the start on the listening clock
   * @returns the lease of the previous run
   */
  load(entries: readonly VmRecord[], stored: string | undefined, now: number): number {
    this.#gap = this.#clock.lastGap();
    const terms = JSON.parse(stored ?? '{}') as Partial<StoredTerms>;
    const { lease: before = this.lease, pauses = [], since = 0, inDoubt = [] } = terms;
    this.#pauses = pauses;
    this.#since = since;
    this.#inDoubt = new Set(inDoubt);
    if (this.lease < before) {
      const stillInDoubt = entries.filter((entry) => this.mayHaveWaited(entry));
      this.#since = now;
      this.#inDoubt = new Set(stillInDoubt.map(({ id }) => id));
    }
    if (terms.lease !== this.lease) this.#save();
    return before;
  }

  /** Remembers a pause of the daemon. Call it before each decision about leases. */
  noticeGap(): void {
    const gap = this.#clock.lastGap();
    if (gap === this.#gap) return;
    this.#gap = gap;
    if (!gap || gap.certainFrom === gap.endedAt) return;
    const horizon = this.#clock.listening() - this.lease;
    const pauses = [...this.#pauses.filter(({ certainFrom }) => certainFrom >= horizon), gap];
    this.#pauses = pauses.length > MAX_PAUSES ? mergeOldest(pauses) : pauses;
    this.#save();
  }

  #save(): void {
    const inDoubt = [...this.#inDoubt];
    const terms: StoredTerms = { lease: this.lease, since: this.#since, pauses: this.#pauses, inDoubt };
    this.#records.add({ kind: 'lease', key: TERMS, body: JSON.stringify(terms) });
  }

  /** True if the VM may have been silent for longer than the lease in wall time. @param now wall clock */
  isDoubtful(entry: VmRecord, now: number): boolean {
    const silence = now - entry.seen.lastSeen;
    // A negative value means that the wall clock was set back, so the duration of the silence is not known.
    return silence < 0 || silence > this.lease || this.mayHaveWaited(entry);
  }

  /**
   * True if the last sign of life of a VM may have waited in the kernel while the daemon was paused. The VM may have died
   * since.
   */
  mayHaveWaited({ id, heardAt }: VmRecord): boolean {
    if (heardAt === this.#since && this.#inDoubt.has(id)) return true;
    return this.#pauses.some(({ endedAt, certainFrom }) => heardAt >= endedAt && heardAt <= certainFrom);
  }

  /**
   * Listening time from which the silence of a VM counts at the earliest: the lease became shorter then, and no agent knew it
   * before. 0 if it never did.
   */
  get silenceFrom(): number {
    return this.#since;
  }
}

/** Merges the two oldest pauses. A sign of life between them becomes doubtful too, which is safe. */
function mergeOldest([first, second, ...later]: readonly Gap[]): Gap[] {
  return [{ endedAt: first!.endedAt, certainFrom: second!.certainFrom }, ...later];
}
