/**
 * Leases determine when a VM becomes stale. VMs are ordered by their last sign of life, so a sweep examines only expired leases
 * instead of the entire fleet.
 *
 * When very many leases expire together, a network failure is more likely than the death of all those VMs. They become
 * *suspect*, and `discover` still returns them for one more lease period. Then they become stale, so VMs that were stopped on
 * purpose do not remain forever (as they do with Eureka's self-preservation: Netflix/eureka#1267).
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import { type Census, censusOf } from './census.ts';
import { LeaseQueue } from './lease-queue.ts';
import type { RecordQueue } from './record-queue.ts';
import { suspicionOf, suspicionRemoval } from './suspicion.ts';
import type { VmRecord } from './vm-record.ts';
import { isUncertain } from './vm-snapshot.ts';

/** Minimum number of VMs in a mass loss. Fewer can fail together, for example with a rack or a deployment. */
const MIN_MASS_LOSS = 10;

/** Maximum number of VMs to examine for one that is running: less than 0.1 ms. */
const MAX_EXAMINED = 1000;

/** The VMs whose leases a sweep found expired. */
interface Expired {
  stale: VmRecord[];
  suspect: VmRecord[];
}

export class Leases {
  /** VMs that were not stale at the last sweep, in the order of their last sign of life, oldest first. */
  readonly #fresh = new LeaseQueue();
  /** Suspect VMs, in the order in which their extra leases end. */
  readonly #suspect = new LeaseQueue();
  /** Stale VMs, in no particular order. */
  readonly #stale = new LeaseQueue();
  /** Elements of {@link #fresh} that may not be in their place yet. */
  readonly #added = new Set<VmRecord>();
  /** The earliest start of a lease among them. */
  #addedFrom = Number.POSITIVE_INFINITY;
  readonly #lease: number;
  readonly #share: number;
  readonly #records: Pick<RecordQueue, 'add'> | undefined;

  /**
   * @param lease milliseconds of listening time
   * @param share share of the live VMs, 0 to 1, that must fall silent together to become suspect instead of stale; 1 disables
   * it
   * @param records receives the records of suspect VMs to save
   */
  constructor(lease: number, share = 1, records?: Pick<RecordQueue, 'add'>) {
    this.#lease = lease;
    this.#share = share;
    this.#records = records;
  }

  /** Adds the VMs from the store at start. Later sweeps do not report VMs that are already stale. */
  load(entries: Iterable<VmRecord>, horizon: number): void {
    for (const entry of inOrder(entries)) {
      if (entry.isSuspect) this.#suspect.push(entry);
      else this.#queueAt(entry, horizon).push(entry);
    }
  }

  /**
   * Renews the lease after a sign of life.
   * @param before the record that `entry` replaces
   * @returns true if the VM was stale or suspect before
   */
  renew(entry: VmRecord, before = entry): boolean {
    const { queue } = before;
    queue?.remove(before);
    // A change can become durable after later heartbeats of other VMs.
    this.#fresh.push(entry, ({ leaseFrom }) => leaseFrom > entry.leaseFrom);
    if (queue === this.#suspect) this.#records?.add(suspicionRemoval(entry.id));
    return queue === this.#suspect || queue === this.#stale;
  }

  /** Replaces the record of a VM that changed without a sign of life. The VM keeps its place in the order. */
  replace(entry: VmRecord, before: VmRecord): void {
    if (before.isSuspect) entry.markSuspect(before.leaseFrom);
    before.queue?.replace(before, entry);
    if (this.#added.delete(before)) this.#added.add(entry);
  }

  /** Adds a VM whose last sign of life is not now. Call {@link sort} after the last one. @returns true if it is stale */
  add(entry: VmRecord, horizon: number): boolean {
    const queue = this.#queueAt(entry, horizon);
    queue.push(entry);
    if (queue === this.#stale) return true;
    this.#added.add(entry);
    this.#addedFrom = Math.min(this.#addedFrom, entry.leaseFrom);
    return false;
  }

  /** True if the VM was stale at the last sweep, or when it was added. */
  isStale(entry: VmRecord): boolean {
    return entry.queue === this.#stale;
  }

  /** The queue for a VM that is not suspect. */
  #queueAt({ leaseFrom }: VmRecord, horizon: number): LeaseQueue {
    return leaseFrom < horizon ? this.#stale : this.#fresh;
  }

  /** Restores the order after {@link add}: moves the added VMs to their places in one walk through the queue. */
  sort(): void {
    this.#addedFrom = Number.POSITIVE_INFINITY;
    let next = this.#fresh.first;
    const added = inOrder(this.#added);
    this.#added.clear();
    for (const entry of added) {
      // A sweep may have found its lease expired in the meantime.
      if (entry.queue !== this.#fresh) continue;
      while (next && next.leaseFrom <= entry.leaseFrom) next = next.next;
      this.#fresh.insert(entry, next);
    }
  }

  forget(entry: VmRecord): void {
    if (entry.queue === this.#suspect) this.#records?.add(suspicionRemoval(entry.id));
    entry.queue?.remove(entry);
  }

  /** Numbers of running VMs at the last sweep. */
  get counts(): { live: number; stale: number; suspect: number } {
    return { live: this.#fresh.running, stale: this.#stale.running, suspect: this.#suspect.running };
  }

  /** Numbers of VMs at the last sweep, also those that are 0. Examines no VM. */
  census(): Census[] {
    return censusOf({ live: this.#fresh, suspect: this.#suspect, stale: this.#stale });
  }

  /**
   * The listening time at which no VM of the last sweep is uncertain any more, at the latest; undefined if none is. Examines only
   * the oldest VMs, because probes without a token ask.
   * @param certainFrom as for {@link isUncertain}
   */
  uncertainUntil(certainFrom: number): number | undefined {
    const starts: number[] = [];
    if (this.#suspect.running > 0) starts.push(this.#suspect.last!.leaseFrom);
    if (this.#isOldestUncertain(certainFrom)) starts.push(Math.max(certainFrom, this.#fresh.first!.leaseFrom));
    return starts.length === 0 ? undefined : Math.max(...starts) + this.#lease;
  }

  /** The queue is in the order of signs of life, so its oldest running VM is uncertain if any is. */
  #isOldestUncertain(certainFrom: number): boolean {
    let examined = 0;
    for (const entry of this.#fresh) {
      // Many VMs that are not running, for at most a lease.
      if (++examined > MAX_EXAMINED) return true;
      if (isRunning(entry)) return isUncertain(entry, certainFrom);
    }
    return false;
  }

  /** The running VMs that were stale or suspect at the last sweep. */
  *silent(): Generator<VmRecord> {
    for (const queue of [this.#stale, this.#suspect]) for (const entry of queue) if (isRunning(entry)) yield entry;
  }

  /** True if a {@link sweep} would find an expired lease. */
  isDue(horizon: number): boolean {
    // An import takes seconds, in which leases of VMs that it has added behind the others can expire.
    if (this.#addedFrom < horizon) this.sort();
    return this.#fresh.isDue(horizon) || this.#suspect.isDue(horizon);
  }

  /** @returns the VMs whose lease began before `horizon` and that no earlier sweep has returned */
  sweep(horizon: number): Expired {
    const due = this.#fresh.takeDue(horizon);
    const expired: Expired = { stale: this.#suspect.takeDue(horizon), suspect: [] };
    for (const entry of expired.stale) {
      entry.endSuspicion();
      this.#records?.add(suspicionRemoval(entry.id));
    }
    const isMassLoss = due.length > 0 && this.#isMassLoss(due, horizon);
    for (const entry of due) {
      if (!isMassLoss || entry.status !== 'running') expired.stale.push(entry);
      else {
        entry.markSuspect(entry.leaseFrom + this.#lease);
        this.#suspect.push(entry);
        this.#records?.add(suspicionOf(entry, this.#lease));
        expired.suspect.push(entry);
      }
    }
    for (const entry of expired.stale) this.#stale.push(entry);
    return expired;
  }

  /**
   * Leases expire one by one, because heartbeats are spread over an interval. Therefore the count includes VMs that are already
   * suspect, and VMs that have missed a heartbeat and would expire within the next interval. Examines only those VMs.
   */
  #isMassLoss(due: readonly VmRecord[], horizon: number): boolean {
    if (this.#share >= 1) return false;
    const soon = horizon + heartbeatInterval(this.#lease);
    let lost = due.filter(isRunning).length + this.#suspect.running;
    const min = Math.max(MIN_MASS_LOSS, Math.floor(this.#share * (lost + this.#fresh.running)) + 1);
    for (const entry of this.#fresh) {
      if (lost >= min || entry.heardAt >= soon) break;
      if (isRunning(entry)) lost++;
    }
    return lost >= min;
  }
}

function inOrder(entries: Iterable<VmRecord>): VmRecord[] {
  return [...entries].sort((a, b) => a.leaseFrom - b.leaseFrom);
}

function isRunning({ status }: VmRecord): boolean {
  return status === 'running';
}
