/** Decides which VMs are live at each read, and notifies subscribers of `stale`, `suspect` and `revived` before the read returns. */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Clock } from '../clock.ts';
import type { StoredRecord } from '../store/store.ts';
import type { Census } from './census.ts';
import type { EventLog } from './events.ts';
import type { HeartbeatBuffer } from './heartbeat-buffer.ts';
import { LeaseTerms, TERMS } from './lease-terms.ts';
import { Leases } from './leases.ts';
import type { RegistryObserver, RegistryOptions } from './options.ts';
import { type Suspicion, suspicionOf, suspicionRemoval } from './suspicion.ts';
import type { VmRecord } from './vm-record.ts';

/**
 * Milliseconds before a restart. A lease that expired within this time is examined again, because the record of a suspect VM,
 * like a heartbeat, becomes durable within a second, so a crash may have lost it.
 */
const UNSAVED_TIME = 1000;

export class LivenessTracker {
  readonly terms: LeaseTerms;
  readonly #lease: number;
  readonly #clock: Clock;
  readonly #leases: Leases;
  readonly #events: EventLog;
  readonly #observer: RegistryObserver;
  readonly #unsaved: HeartbeatBuffer;
  readonly #changed: (entry: VmRecord) => void;
  /** Milliseconds for which nothing expires after heartbeats may have been missed; 0 if this process receives all. */
  readonly #grace: number;
  /** The end of the grace time, and the horizon at its start, on the listening clock. */
  #held = { until: 0, horizon: 0 };

  /** @param changed called with each VM that has become live, suspect or stale */
  constructor(
    { clock, staleAfter, massLoss, observer = {}, store: { replication } }: RegistryOptions,
    events: EventLog,
    unsaved: HeartbeatBuffer,
    changed: (entry: VmRecord) => void,
  ) {
    this.terms = new LeaseTerms(staleAfter, clock, unsaved.records);
    this.#lease = staleAfter;
    this.#clock = clock;
    this.#leases = new Leases(staleAfter, massLoss, unsaved.records);
    this.#events = events;
    this.#observer = observer;
    this.#unsaved = unsaved;
    this.#changed = changed;
    // A heartbeat reaches this replica within one interval, or another one, which reports it within two flushes.
    this.#grace = replication ? heartbeatInterval(staleAfter) + 2 * replication.flushInterval : 0;
    if (replication) this.#hold();
  }

  /** Lets nothing expire until every live VM has been heard again. */
  #hold(): void {
    const now = this.#clock.listening();
    const horizon = now < this.#held.until ? this.#held.horizon : now - this.#lease;
    this.#held = { until: now + this.#grace, horizon };
  }

  /** Time on the listening clock before which a lease has expired if it began then. */
  #expiryHorizon(): number {
    const now = this.#clock.listening();
    return now < this.#held.until ? Math.min(this.#held.horizon, now - this.#lease) : now - this.#lease;
  }

  /** Stops the listening time while heartbeats that other replicas receive do not arrive. */
  currencyChanged(isCurrent: boolean): void {
    if (!isCurrent) this.#clock.suspend();
    else {
      this.#clock.resume();
      this.#hold();
    }
  }

  /**
   * Adds the VMs from the store at start. Suspect VMs keep their remaining time, or more if the lease has become
   * more than twice as long. If the lease has become shorter, every live VM
   * gets a full lease, because its agent does not know the shorter one yet.
   * @param records all records of the store
   */
  load(entries: readonly VmRecord[], records: readonly StoredRecord[]): void {
    const now = this.#clock.lastGap()?.endedAt ?? this.#clock.listening();
    const stored = new Map(records.filter(({ kind }) => kind === 'lease').map(({ key, body }) => [key, body]));
    const before = this.terms.load(entries, stored.get(TERMS), now);
    const isShorter = this.#lease < before;
    stored.delete(TERMS);
    for (const entry of entries) {
      const { id, seen } = entry;
      const record = stored.get(id);
      const suspicion = record === undefined ? undefined : (JSON.parse(record) as Suspicion);
      if (suspicion?.heardAt === seen.heardAt) {
        const until = Math.min(suspicion.until, now + this.#lease);
        // If the lease has become much longer, the VM gets a full one, like every silent VM.
        entry.markSuspect(Math.max(until - this.#lease, seen.heardAt));
        if (until < suspicion.until) this.#unsaved.records.add(suspicionOf(entry, this.#lease));
        stored.delete(id);
      } else if (isShorter && entry.status === 'running' && seen.heardAt >= now - before) {
        entry.touch({ ...seen, heardAt: now });
        this.#unsaved.add(entry);
      }
    }
    // A crash can leave the record of a VM that was removed or has sent a heartbeat.
    for (const id of stored.keys()) this.#unsaved.records.add(suspicionRemoval(id));
    this.#leases.load(entries, now - this.#lease - UNSAVED_TIME);
  }

  /**
   * Returns the time that separates live from stale VMs. Sweeps first, so that no read omits a VM before the sweep has decided
   * whether it is stale or suspect.
   * @param position of the registry, for the events
   * @returns time on the listening clock; a VM whose lease began before it is stale
   */
  horizon(position: Position): number {
    this.terms.noticeGap();
    const horizon = this.#expiryHorizon();
    if (!this.#leases.isDue(horizon)) return horizon;
    const { stale, suspect } = this.#leases.sweep(horizon);
    for (const entry of stale) this.#changed(entry);
    for (const entry of suspect) this.#changed(entry);
    const occasion = { position, at: this.#clock.now() };
    for (const entry of stale) if (entry.status === 'running') this.#events.add('stale', entry, occasion);
    for (const entry of suspect) this.#events.add('suspect', entry, occasion);
    if (suspect.length > 0) this.#observer.massLoss?.(suspect);
    return horizon;
  }

  /** Seconds for which answers may still include dead VMs, at the most; 0 if they cannot. Call it after {@link horizon}. */
  get warmingSeconds(): number {
    const certainFrom = this.#clock.lastGap()?.certainFrom ?? Number.NEGATIVE_INFINITY;
    const until = this.#leases.uncertainUntil(certainFrom);
    return until === undefined ? 0 : Math.max(1, Math.ceil((until - this.#clock.listening()) / 1000));
  }

  /** Adds an imported VM. Call {@link sort} after the last one. @returns true if it is stale */
  add(entry: VmRecord): boolean {
    return this.#leases.add(entry, this.#clock.listening() - this.#lease);
  }

  /** Notifies subscribers of an imported VM that was stale when it was added. @param position of the change that has added it */
  notifyIfStale(entry: VmRecord, position: Position): void {
    if (this.#leases.isStale(entry) && entry.status === 'running')
      this.#events.add('stale', entry, { position, at: this.#clock.now() });
  }

  /** As {@link Leases.silent}. */
  silent(): Iterable<VmRecord> {
    return this.#leases.silent();
  }

  /** As {@link Leases.counts}. */
  get counts(): Leases['counts'] {
    return this.#leases.counts;
  }

  /** As {@link Leases.census}. */
  census(): Census[] {
    return this.#leases.census();
  }

  /** Restores the order of the leases after {@link add}. */
  sort(): void {
    this.#leases.sort();
  }

  /** Renews the lease after a heartbeat. @returns true if the VM was stale or suspect before */
  renew(entry: VmRecord): boolean {
    const isRevived = this.#leases.renew(entry);
    if (isRevived) this.#changed(entry);
    return isRevived;
  }

  notifyRevived(entry: VmRecord, position: Position): void {
    this.#events.add('revived', entry, { position, at: this.#clock.now() });
  }

  /** Updates the lease after a change to a VM. @returns true if the change ended the silence of a running VM */
  replace(before: VmRecord | undefined, entry: VmRecord): boolean {
    // Becoming `running` is a sign of life even within the same millisecond as the last one.
    const starts = entry.status === 'running' && before?.status !== 'running';
    if (starts || before?.heardAt !== entry.heardAt) return this.#leases.renew(entry, before) && !starts;
    this.#leases.replace(entry, before);
    return false;
  }

  forget(entry: VmRecord): void {
    this.#leases.forget(entry);
  }
}
