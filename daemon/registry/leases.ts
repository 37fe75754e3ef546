/**
 * Leases determine when a VM becomes stale. VMs are ordered by their last sign of life, so a sweep examines only expired leases
 * instead of the entire fleet.
 *
 * When very many leases expire together, a network failure is more likely than the death of all those VMs. They become
 * *suspect*, and `discover` still returns them for one more lease period. Then they become stale, so VMs that were stopped on
 * purpose do not remain forever (as they do with Eureka's self-preservation: Netflix/eureka#1267).
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import type { Position } from '../../src/protocol/position.ts';
import { ROLES, type Role, STATUSES, type Status } from '../../src/protocol/vm.ts';
import type { Clock, Gap } from '../clock.ts';
import type { StoredRecord } from '../store/store.ts';
import type { EventLog } from './events.ts';
import { LinkedQueue } from './linked-queue.ts';
import type { RegistryObserver, RegistryOptions } from './options.ts';
import type { LastSeen, VmRecord } from './vm-record.ts';
import { isUncertain } from './vm-snapshot.ts';
import type { HeartbeatBuffer, RecordQueue } from './writes.ts';

/** Minimum number of VMs in a mass loss. Fewer can fail together, for example with a rack or a deployment. */
const MIN_MASS_LOSS = 10;

/**
 * Milliseconds before a restart. A lease that expired within this time is examined again, because the record of a suspect VM,
 * like a heartbeat, becomes durable within a second, so a crash may have lost it.
 */
const UNSAVED_TIME = 1000;

/** Maximum number of pauses to remember. A daemon that is paused every second would otherwise store thousands in one lease. */
const MAX_PAUSES = 100;

/** Milliseconds by which replicas may know the same sign of life differently, because they exchange seconds. */
const RESOLUTION = 1000;

/** Key of the record that holds {@link Terms}. No VM has it, because the id of a VM is never empty. */
const TERMS = '';

/** Lease duration and recent pauses of the daemon's previous run. */
interface Terms {
  /** Milliseconds of listening time. */
  lease: number;
  /** Listening time of the start at which the lease became shorter. */
  since?: number;
  /** Pauses of the daemon within the last lease duration. */
  pauses: readonly Gap[];
  /** The VMs that were in doubt when the lease became shorter. A full lease at `since` has replaced their last sign of life. */
  inDoubt?: readonly string[];
}

/** Record of a suspect VM, so that its remaining time survives a restart. It is valid while the VM stays silent. */
interface Suspicion {
  /** The last sign of life before the suspicion, on the listening clock. */
  heardAt: number;
  /** End of the second lease on the listening clock. */
  until: number;
}

/** Maximum number of VMs to examine for one that is running: less than 0.1 ms. */
const MAX_EXAMINED = 1000;

/** The VMs whose leases a sweep found expired. */
export interface Expired {
  stale: VmRecord[];
  suspect: VmRecord[];
}

/** Number of VMs with a role, a declared status and a liveness. */
export interface Census {
  role: Role;
  status: Status;
  /** `none` unless the status is `running`. */
  liveness: 'live' | 'suspect' | 'stale' | 'none';
  count: number;
}

export class Leases {
  /** VMs that were not stale at the last sweep, in the order of their last sign of life, oldest first. */
  readonly #fresh = new LinkedQueue<VmRecord>(kindOf);
  /** Suspect VMs, in the order in which their extra leases end. */
  readonly #suspect = new LinkedQueue<VmRecord>(kindOf);
  /** Stale VMs, in no particular order. */
  readonly #stale = new LinkedQueue<VmRecord>(kindOf);
  /** Elements of {@link #fresh} that may not be in their place yet. */
  readonly #added: VmRecord[] = [];
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
    if (queue === this.#suspect) this.#records?.add(removalOf(entry.id));
    return queue === this.#suspect || queue === this.#stale;
  }

  /** Replaces the record of a VM that changed without a sign of life. The VM keeps its place in the order. */
  replace(entry: VmRecord, before: VmRecord): void {
    if (before.isSuspect) entry.markSuspect(before.leaseFrom);
    before.queue?.replace(before, entry);
  }

  /** Adds a VM whose last sign of life is not now. Call {@link sort} after the last one. @returns true if it is stale */
  add(entry: VmRecord, horizon: number): boolean {
    const queue = this.#queueAt(entry, horizon);
    queue.push(entry);
    if (queue === this.#stale) return true;
    this.#added.push(entry);
    this.#addedFrom = Math.min(this.#addedFrom, entry.leaseFrom);
    return false;
  }

  /** The queue for a VM that is not suspect. */
  #queueAt({ leaseFrom }: VmRecord, horizon: number): LinkedQueue<VmRecord> {
    return leaseFrom < horizon ? this.#stale : this.#fresh;
  }

  /** Restores the order after {@link add}: moves the added VMs to their places in one walk through the queue. */
  sort(): void {
    this.#addedFrom = Number.POSITIVE_INFINITY;
    let next = this.#fresh.first;
    for (const entry of inOrder(this.#added.splice(0))) {
      // A sweep may have found its lease expired in the meantime.
      if (entry.queue !== this.#fresh) continue;
      while (next && next.leaseFrom <= entry.leaseFrom) next = next.next;
      this.#fresh.insert(entry, next);
    }
  }

  forget(entry: VmRecord): void {
    if (entry.queue === this.#suspect) this.#records?.add(removalOf(entry.id));
    entry.queue?.remove(entry);
  }

  /** Numbers of running VMs at the last sweep. */
  get counts(): { live: number; stale: number; suspect: number } {
    return { live: runningIn(this.#fresh), stale: runningIn(this.#stale), suspect: runningIn(this.#suspect) };
  }

  /** Numbers of VMs at the last sweep, also those that are 0. Examines no VM. */
  census(): Census[] {
    const queues = { live: this.#fresh, suspect: this.#suspect, stale: this.#stale };
    return ROLES.flatMap((role) =>
      STATUSES.flatMap((status): Census[] => {
        const counts = Object.entries(queues).map(([liveness, queue]) => ({
          role,
          status,
          liveness: liveness as keyof typeof queues,
          count: queue.countOf(kindOf({ role, status })),
        }));
        if (status === 'running') return counts;
        return [{ role, status, liveness: 'none', count: counts.reduce((sum, { count }) => sum + count, 0) }];
      }),
    );
  }

  /**
   * The listening time at which no VM of the last sweep is uncertain any more, at the latest; undefined if none is. Examines only
   * the oldest VMs, because probes without a token ask.
   * @param certainFrom as for {@link isUncertain}
   */
  uncertainUntil(certainFrom: number): number | undefined {
    const starts: number[] = [];
    if (runningIn(this.#suspect) > 0) starts.push(this.#suspect.last!.leaseFrom);
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
    return isFirstDue(this.#fresh, horizon) || isFirstDue(this.#suspect, horizon);
  }

  /** @returns the VMs whose lease began before `horizon` and that no earlier sweep has returned */
  sweep(horizon: number): Expired {
    const due = takeDue(this.#fresh, horizon);
    const expired: Expired = { stale: takeDue(this.#suspect, horizon), suspect: [] };
    for (const entry of expired.stale) {
      entry.endSuspicion();
      this.#records?.add(removalOf(entry.id));
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
    let lost = due.filter(isRunning).length + runningIn(this.#suspect);
    const min = Math.max(MIN_MASS_LOSS, Math.floor(this.#share * (lost + runningIn(this.#fresh))) + 1);
    for (const entry of this.#fresh) {
      if (lost >= min || entry.heardAt >= soon) break;
      if (isRunning(entry)) lost++;
    }
    return lost >= min;
  }
}

function suspicionOf({ id, heardAt, leaseFrom }: VmRecord, lease: number) {
  const suspicion: Suspicion = { heardAt, until: leaseFrom + lease };
  return { kind: 'lease', key: id, body: JSON.stringify(suspicion) } as const;
}

function removalOf(id: string) {
  return { kind: 'lease', key: id, body: undefined } as const;
}

function inOrder(entries: Iterable<VmRecord>): VmRecord[] {
  return [...entries].sort((a, b) => a.leaseFrom - b.leaseFrom);
}

function isFirstDue({ first }: LinkedQueue<VmRecord>, horizon: number): boolean {
  return first !== undefined && first.leaseFrom < horizon;
}

function takeDue(queue: LinkedQueue<VmRecord>, horizon: number): VmRecord[] {
  const due: VmRecord[] = [];
  for (const entry of queue) {
    if (entry.leaseFrom >= horizon) break;
    queue.remove(entry);
    due.push(entry);
  }
  return due;
}

/** The kind by which the queues count VMs: a number for each role and status. */
function kindOf({ role, status }: Pick<VmRecord, 'role' | 'status'>): number {
  return ROLES.indexOf(role) * STATUSES.length + STATUSES.indexOf(status);
}

function runningIn(queue: LinkedQueue<VmRecord>): number {
  return ROLES.reduce((sum, role) => sum + queue.countOf(kindOf({ role, status: 'running' })), 0);
}

function isRunning({ status }: VmRecord): boolean {
  return status === 'running';
}

/** Merges the two oldest pauses. A sign of life between them becomes doubtful too, which is safe. */
function mergeOldest([first, second, ...later]: readonly Gap[]): Gap[] {
  return [{ endedAt: first!.endedAt, certainFrom: second!.certainFrom }, ...later];
}

/** Decides which VMs are live at each read, and notifies subscribers of `stale`, `suspect` and `revived` before the read returns. */
export class Liveness {
  /** Length of a lease in milliseconds of listening time (excludes time when the registry was down or paused). */
  readonly #lease: number;
  readonly #clock: Clock;
  readonly #leases: Leases;
  readonly #events: EventLog;
  readonly #observer: RegistryObserver;
  readonly #unsaved: HeartbeatBuffer;
  readonly #changed: (entry: VmRecord) => void;
  /** The last gap that was noticed. */
  #gap: Gap | undefined;
  /** Pauses of the daemon within the last lease. A heartbeat that arrived right after one may have waited in the kernel. */
  #pauses: readonly Gap[] = [];
  #since = 0;
  /** Milliseconds for which nothing expires after heartbeats may have been missed; 0 if this process receives all. */
  readonly #grace: number;
  /** The end of the grace time, and the horizon at its start, on the listening clock. */
  #held = { until: 0, horizon: 0 };
  /** Ids as in {@link Terms}. */
  #inDoubt: ReadonlySet<string> = new Set();

  /** @param changed called with each VM that has become live, suspect or stale */
  constructor(
    { clock, staleAfter, massLoss, observer = {}, store: { replication } }: RegistryOptions,
    events: EventLog,
    unsaved: HeartbeatBuffer,
    changed: (entry: VmRecord) => void,
  ) {
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
    this.#gap = this.#clock.lastGap();
    const now = this.#gap?.endedAt ?? this.#clock.listening();
    const stored = new Map(records.filter(({ kind }) => kind === 'lease').map(({ key, body }) => [key, body]));
    const terms = JSON.parse(stored.get(TERMS) ?? '{}') as Partial<Terms>;
    const { lease: before = this.#lease, pauses = [], since = 0, inDoubt = [] } = terms;
    const isShorter = this.#lease < before;
    this.#pauses = pauses;
    this.#since = since;
    this.#inDoubt = new Set(inDoubt);
    const stillInDoubt = isShorter ? entries.filter((entry) => this.mayHaveWaited(entry)) : [];
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
    for (const id of stored.keys()) this.#unsaved.records.add(removalOf(id));
    if (isShorter) {
      this.#since = now;
      this.#inDoubt = new Set(stillInDoubt.map(({ id }) => id));
    }
    if (terms.lease !== this.#lease) this.#saveTerms();
    this.#leases.load(entries, now - this.#lease - UNSAVED_TIME);
  }

  /**
   * Returns the time that separates live from stale VMs. Sweeps first, so that no read omits a VM before the sweep has decided
   * whether it is stale or suspect.
   * @param position of the registry, for the events
   * @returns time on the listening clock; a VM whose lease began before it is stale
   */
  horizon(position: Position): number {
    this.#noticeGap();
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

  #noticeGap(): void {
    const gap = this.#clock.lastGap();
    if (gap === this.#gap) return;
    this.#gap = gap;
    if (!gap || gap.certainFrom === gap.endedAt) return;
    const horizon = this.#clock.listening() - this.#lease;
    const pauses = [...this.#pauses.filter(({ certainFrom }) => certainFrom >= horizon), gap];
    this.#pauses = pauses.length > MAX_PAUSES ? mergeOldest(pauses) : pauses;
    this.#saveTerms();
  }

  #saveTerms(): void {
    const inDoubt = [...this.#inDoubt];
    const terms: Terms = { lease: this.#lease, since: this.#since, pauses: this.#pauses, inDoubt };
    this.#unsaved.records.add({ kind: 'lease', key: TERMS, body: JSON.stringify(terms) });
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

  signOfLife(): LastSeen {
    return { lastSeen: this.#clock.now(), heardAt: this.#clock.listening() };
  }

  /** A sign of life that another replica has received. @param lastSeen wall clock; a future one counts as now */
  signOfLifeAt(lastSeen: number): LastSeen {
    return { lastSeen: Math.min(lastSeen, this.#clock.now()), heardAt: this.#clock.listeningAt(lastSeen) };
  }

  /** True if a sign of life that another replica has received is later than the last one that this replica knows. */
  isLater({ lastSeen, heardAt }: LastSeen, { seen, heardAt: before }: VmRecord): boolean {
    return lastSeen - seen.lastSeen >= RESOLUTION && heardAt > before;
  }

  /** The last sign of life of a VM that another replica has changed. @param before the VM that this replica knows */
  laterSign(before: VmRecord | undefined, after: VmRecord): LastSeen {
    const seen = this.signOfLifeAt(after.seen.lastSeen);
    return before && !this.isLater(seen, before) ? before.seen : seen;
  }

  /** An earlier sign of life, which another registry has received. @param lastSeen wall clock; a future one counts as now */
  earlierSignOfLife(lastSeen: number): LastSeen {
    const now = this.signOfLife();
    const age = Math.max(0, now.lastSeen - lastSeen);
    return { lastSeen: now.lastSeen - age, heardAt: now.heardAt - age };
  }

  /** Adds an imported VM. Call {@link sort} after the last one. @param position of the change that has added it */
  add(entry: VmRecord, position: Position): void {
    const isStale = this.#leases.add(entry, this.#clock.listening() - this.#lease);
    if (isStale && entry.status === 'running') this.#events.add('stale', entry, { position, at: this.#clock.now() });
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
