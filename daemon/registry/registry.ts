/**
 * The rules of the registry, applied in memory. The module uses neither HTTP nor files; its clock and its store are injected.
 *
 * A write is validated against the pending state (all committed changes, and all changes that are not durable yet), goes to the
 * store, and becomes visible when it is durable. Thus many writes can share a sync, only one of two concurrent registrations of
 * an id can succeed, and no reader sees a change that a power failure could undo.
 */
import type { DiscoverQuery } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { HistoryAnswer } from '../../src/protocol/heartbeat.ts';
import type { Position } from '../../src/protocol/position.ts';
import { type ImportedVm, inFieldOrder, type Registration, type VmUpdate } from '../../src/protocol/vm.ts';
import type { Clock } from '../clock.ts';
import type { Contents, JournalItem, JournalNote, RecordChange, Replication, Store } from '../store/store.ts';
import { Arrivals } from './arrivals.ts';
import { checkLimits, type RegistryLimits, usageOf } from './capacity.ts';
import type { Census } from './census.ts';
import type { ConflictLog } from './conflict-log.ts';
import type { EventLog } from './events.ts';
import { Fleet, type VmNote } from './fleet.ts';
import type { HealthReports } from './health.ts';
import type { HeartbeatBuffer } from './heartbeat-buffer.ts';
import type { HistoryClaims } from './history-claims.ts';
import type { Enroller, Identities } from './identity.ts';
import type { Now, Proof } from './incarnation.ts';
import { isoTime } from './iso-time.ts';
import type { LeaseTerms } from './lease-terms.ts';
import type { LivenessTracker } from './liveness-tracker.ts';
import { changesSince, type VmChange } from './missed-changes.ts';
import type { RegistryOptions } from './options.ts';
import { PendingChanges } from './pending-changes.ts';
import { Positions } from './positions.ts';
import {
  ANONYMOUS,
  alreadyRegistered,
  applyUpdate,
  assertExpected,
  assertMayChange,
  assertMayHeartbeat,
  assertMayReplace,
  assertPermitted,
  assertSameRegistration,
  cannotChangeRole,
  diff,
  isMove,
  notFound,
  type TokenRestriction,
  typeOf,
  type WriteOptions,
} from './preconditions.ts';
import { Replicas } from './replicas.ts';
import { SharedChanges } from './shared-changes.ts';
import { signOfLife } from './signs-of-life.ts';
import { type ImportOptions, VmImport } from './vm-import.ts';
import type { Filter, Lineage, VmIndex } from './vm-index.ts';
import { type LastSeen, type Spec, VmRecord } from './vm-record.ts';
import type { Snapshot } from './vm-snapshot.ts';
import { type Attachment, type Changes, Superseded, type VmDecision } from './writes.ts';

/** Author in the journal for revocations that the registry itself repeats. */
const REPEATED_BY = 'vreg daemon';

export class Registry {
  /** Generated with the store; identifies the registry to clients. */
  readonly id: string;
  /** The lease: milliseconds of listening time. */
  readonly staleAfter: number;
  readonly clock: Clock;
  readonly positions: Positions;
  readonly events: EventLog;
  readonly health: HealthReports;
  readonly conflicts: ConflictLog;
  readonly identities: Identities;
  readonly historyClaims: HistoryClaims;
  readonly replicas: Replicas;
  readonly lineage: Lineage;
  /** Heartbeats and records that the next {@link saveHeartbeats} makes durable. */
  readonly unsaved: HeartbeatBuffer;
  /** Number of accepted heartbeats since the start. */
  heartbeatCount = 0;
  readonly #store: Store;
  readonly #limits: RegistryLimits | undefined;
  readonly #onDeregister: RegistryOptions['onDeregister'];
  readonly #onMove: RegistryOptions['onMove'];
  readonly #fleet: Fleet;
  // Parts of the fleet that most requests need.
  readonly #index: VmIndex;
  readonly #liveness: LivenessTracker;
  readonly #terms: LeaseTerms;
  /** Changes that are not durable yet. */
  readonly #pending: Changes;
  readonly #replication: Replication | undefined;
  readonly #import: VmImport;
  /** Number of {@link commitTokens} in progress. */
  #tokenCommits = 0;

  constructor(options: RegistryOptions, contents: Contents<VmRecord>) {
    const { store, clock, staleAfter, limits, onDeregister, onMove, onTokenRecord } = options;
    this.id = contents.registryId;
    this.staleAfter = staleAfter;
    this.clock = clock;
    this.#store = store;
    this.#limits = limits;
    this.#onDeregister = onDeregister;
    this.#onMove = onMove;
    this.#replication = store.replication;
    this.positions = new Positions(contents.positions, this.#replication !== undefined, contents.start);
    this.#fleet = new Fleet(options, contents, this.positions);
    const { index, liveness, terms, events, health, conflicts, identities, historyClaims, unsaved } = this.#fleet;
    this.#index = index;
    this.#liveness = liveness;
    this.#terms = terms;
    this.lineage = index.lineage;
    this.events = events;
    this.health = health;
    this.conflicts = conflicts;
    this.identities = identities;
    this.historyClaims = historyClaims;
    this.unsaved = unsaved;
    this.replicas = new Replicas(this.#replication, this.positions, identities, unsaved.records, (id) => this.has(id));
    const sweep = () => this.sweep();
    if (this.#replication) {
      const changes = new SharedChanges(store, this.#replication, this.positions, sweep);
      this.#replication.follow(new Arrivals(this.#fleet, changes, onTokenRecord));
      this.#pending = changes;
    } else this.#pending = new PendingChanges(store, this.positions, sweep);
    this.#import = new VmImport(this.#fleet, this.#pending, limits);
  }

  /** Revision of the last committed change. */
  get revision(): number {
    return this.positions.latest.revision;
  }

  /** As {@link Replication.age}. */
  get age(): number {
    return this.#replication?.age() ?? 0;
  }

  /**
   * Registers a new VM, which is durable when this resolves.
   * @throws VregError CONFLICT if the id is taken, FORBIDDEN, and the store's errors
   */
  register(registration: Registration, options: WriteOptions = {}): Promise<VmRecord> {
    return this.#pending.decide(registration.id, () => this.#register(registration, options));
  }

  async #register(registration: Registration, options: WriteOptions): Promise<VmRecord> {
    while (this.#import.running) await this.#import.running;
    options.assertActive?.();
    const { id, role } = registration;
    const { restriction } = options;
    assertPermitted(restriction, registration);
    if (this.#current(id)) throw alreadyRegistered();
    assertSameRegistration(restriction);
    if (restriction?.vm !== undefined && restriction.role === undefined) {
      // Otherwise, the token could change the role of its VM: remove the VM, then register it again.
      if (((await this.#formerRole(id)) ?? role) !== role) throw cannotChangeRole(registration);
      while (this.#import.running) await this.#import.running;
      options.assertActive?.();
      // Another registration may have been accepted in the meantime.
      if (this.#current(id)) throw alreadyRegistered();
    }
    const seen = signOfLife(this.clock);
    const registeredAt = new Date(seen.lastSeen).toISOString();
    return this.#put(undefined, { from: undefined, to: { ...registration, registeredAt } }, seen, options);
  }

  /** The role of a VM before it was removed; undefined if the journal does not contain its removal. */
  async #formerRole(id: string): Promise<unknown> {
    // While the removal is being committed, the VM is still visible.
    const visible = this.#index.get(id);
    if (visible) return visible.role;
    const [last] = await this.#store.history(id, 1);
    return last?.type === 'deregistered' ? last.changes.role?.[0] : undefined;
  }

  /**
   * Registers a VM, or replaces the declared fields of a registered one, which keeps `registeredAt` and its place in lists. A
   * registration with the same values changes nothing, but is a sign of life if its status is `running`. If a restricted token
   * changes the role, the VM gets a new `registeredAt` and moves to the end of lists, so that it is the newest VM with its new
   * role.
   * @throws VregError PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  replace(registration: Registration, options: WriteOptions = {}): Promise<{ entry: VmRecord; created: boolean }> {
    return this.#pending.decide(registration.id, () => this.#replace(registration, options));
  }

  /** @param isCurrent every change that was committed before the request has arrived */
  async #replace(
    registration: Registration,
    options: WriteOptions,
    isCurrent = false,
  ): Promise<{ entry: VmRecord; created: boolean }> {
    while (this.#import.running) await this.#import.running;
    options.assertActive?.();
    const { expect, restriction, attach } = options;
    const before = this.#current(registration.id);
    if (before) assertMayReplace(restriction, before, registration);
    else assertPermitted(restriction, registration);
    assertExpected(before, expect);
    if (!before) return { entry: await this.#register(registration, options), created: true };
    const isRenewed = isMove(restriction, before, registration);
    const from = before.vm;
    const registeredAt = isRenewed ? new Date(this.clock.now()).toISOString() : from.registeredAt;
    const to: Spec = { ...registration, registeredAt };
    const running = registration.status === 'running';
    const isRepeated = Object.keys(diff(from, to)).length === 0 && this.#index.get(to.id) === before;
    if (isRepeated && !attach) {
      if (this.#replication && !isCurrent) {
        // Nothing is committed, so the store would not notice that another replica has changed the VM.
        await this.#replication.refresh();
        return this.#replace(registration, options, true);
      }
      return { entry: running ? this.heartbeat(to.id) : before, created: false };
    }
    const seen = running || isRenewed ? signOfLife(this.clock) : before.seen;
    const entry = await this.#put(before, { from, to }, seen, options, isRenewed);
    if (!running) this.identities.markIdle(to.id);
    return { entry, created: false };
  }

  /**
   * Changes fields of a VM. Only setting the status to `running` is a sign of life.
   * @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  update(id: string, update: VmUpdate, options: WriteOptions = {}): Promise<VmRecord> {
    return this.#pending.decide(id, () => this.#update(id, update, options));
  }

  async #update(id: string, update: VmUpdate, options: WriteOptions): Promise<VmRecord> {
    while (this.#import.running) await this.#import.running;
    options.assertActive?.();
    const before = this.#require(id);
    assertMayChange(options.restriction, before);
    assertExpected(before, options.expect);
    const seen = update.status === 'running' ? signOfLife(this.clock) : before.seen;
    const from = before.vm;
    const entry = await this.#put(before, { from, to: applyUpdate(from, update) }, seen, options);
    if (update.status !== undefined && update.status !== 'running') this.identities.markIdle(id);
    return entry;
  }

  /**
   * Removes a VM.
   * @returns the position of the removal
   * @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  deregister(id: string, options: WriteOptions = {}): Promise<Position> {
    return this.#pending.decide(id, () => this.#deregister(id, options));
  }

  async #deregister(
    id: string,
    { by = ANONYMOUS, expect, restriction, assertActive }: WriteOptions,
  ): Promise<Position> {
    while (this.#import.running) await this.#import.running;
    assertActive?.();
    const before = this.#require(id);
    assertMayChange(restriction, before);
    assertExpected(before, expect);
    const note = { type: 'deregistered', at: this.clock.now(), by, changes: diff(before.vm, undefined) } as const;
    return this.#commitVm({ id, before, after: undefined }, note, this.#onDeregister?.(id));
  }

  /** As {@link VmImport.run}. Without replicas, other changes wait until it is done. */
  import(entries: readonly ImportedVm[], options: ImportOptions): Promise<(VmRecord | VregError)[]> {
    return this.#import.run(entries, options);
  }

  /**
   * Commits a change to access tokens. It has a position, but appears neither in the history of a VM nor as an event.
   * @param assertActive as in {@link WriteOptions}
   * @throws the store's errors, and those of `assertActive`
   */
  async commitTokens(records: readonly RecordChange[], by: string, assertActive?: () => void): Promise<void> {
    const [removed, added] = [true, false].map((isRemoval) =>
      records.filter(({ body }) => (body === undefined) === isRemoval).map(({ key }) => key),
    );
    const note: JournalNote = { type: 'token', at: this.clock.now(), by, changes: { tokens: [removed, added] } };
    this.#tokenCommits++;
    try {
      while (this.#import.running) await this.#import.running;
      assertActive?.();
      await this.#pending.commit({ note, records, apply: () => () => {} });
    } catch (error) {
      throw error instanceof Superseded ? tokenExists() : error;
    } finally {
      this.#tokenCommits--;
    }
  }

  /**
   * Records a heartbeat, which is visible immediately, and durable with the next {@link saveHeartbeats}. It is not a change and
   * has no revision.
   * @param proof identity and service health from the VM's agent; undefined for a plain heartbeat
   * @throws VregError NOT_FOUND, FORBIDDEN, UNAUTHORIZED, IDENTITY_CONFLICT as {@link Identities.prove}
   */
  heartbeat(id: string, proof?: Proof, restriction?: TokenRestriction): VmRecord {
    const entry = this.get(id);
    if (proof?.replace && proof.next !== undefined) assertMayChange(restriction, entry);
    else assertMayHeartbeat(restriction, entry);
    // Subscribers receive `stale` before `revived`, even if no sweep has noticed the expired lease yet.
    this.sweep();
    if (proof) this.identities.prove(entry, proof, this.#now());
    const seen = signOfLife(this.clock);
    const wasDoubtful = this.#terms.isDoubtful(entry, seen.lastSeen);
    entry.touch(seen);
    this.unsaved.add(entry);
    // Only the holder of the VM's identity may report its health. A VM without a holder has an agent without identity.
    if (proof?.health && (proof.next !== undefined || !this.identities.isHeld(id)))
      this.health.put(entry, proof.health);
    if (this.#liveness.renew(entry) && entry.status === 'running') {
      this.#liveness.notifyRevived(entry, this.positions.latest);
    }
    if (wasDoubtful) this.events.discoverable(entry);
    this.events.heartbeat(entry);
    this.heartbeatCount++;
    return entry;
  }

  /**
   * Compares the positions in the heartbeat of an agent that {@link heartbeat} has accepted.
   * @param isCurrent as for {@link Positions.compare}
   */
  compareHistory(id: string, proof: Proof, isCurrent?: boolean): HistoryAnswer | undefined {
    return proof.position === undefined ? undefined : this.historyClaims.answer(id, proof, this.#now(), isCurrent);
  }

  /** @throws VregError as {@link Identities.assertVacant}, NOT_FOUND */
  assertVacant(id: string, enroller: Enroller): void {
    this.identities.assertVacant(this.get(id), enroller, this.#now());
  }

  has(id: string): boolean {
    return this.#index.get(id) !== undefined;
  }

  /** @throws VregError NOT_FOUND */
  get(id: string): VmRecord {
    return this.#index.require(id);
  }

  /** Revision of the registration of a VM; undefined if it is not registered. */
  registrationOf(id: string): number | undefined {
    return this.#index.registrationOf(id);
  }

  /** VMs, newest registration first. The filter `running` omits stale VMs, as in the original registry (vers-agent-services). */
  list(filter: Filter): readonly VmRecord[] {
    return this.#index.list(filter, this.#fleet.horizon());
  }

  /** The live VMs with a role, oldest registration first; with a service, in the order of {@link HealthReports.offering}. */
  discover(role: string, { service, passing = false, strict = false }: DiscoverQuery = {}): VmRecord[] {
    let found = this.#index.live(role, this.#fleet.horizon());
    if (service !== undefined) found = this.health.offering(found, service, passing);
    if (!strict) return found;
    const now = this.clock.now();
    return found.filter((entry) => !this.#terms.isDoubtful(entry, now));
  }

  /** VMs, or those with a role, that were registered before a revision, newest first. Must be read before the next change. */
  registeredBefore(revision: number, role?: string): Iterable<VmRecord> {
    this.sweep();
    return this.#index.registeredBefore(role, revision);
  }

  /** All VMs, or those with a role, newest registration first, as {@link list}, with cached JSON. */
  snapshot(role?: string): Snapshot {
    this.sweep();
    return this.#index.snapshot(role);
  }

  /** The VMs of {@link discover} without options, with cached JSON. */
  liveSnapshot(role: string): Snapshot {
    return this.#index.liveSnapshot(role, this.#fleet.horizon());
  }

  /**
   * A text that changes when the membership, the declared fields, the liveness or the health of VMs change. It also differs between copies
   * of this registry that have had different changes. Sweeps first. A list that is read later is the one of this stamp or a newer one.
   * @param role only of the VMs with this role
   */
  stamp(role?: string): string {
    this.sweep();
    return this.#index.stamp(role);
  }

  isStale(entry: VmRecord): boolean {
    // Call this first, because its sweep can extend the lease.
    const horizon = this.#fleet.horizon();
    return entry.leaseFrom < horizon;
  }

  /** Number of VMs, and of those that are declared running and are live, stale or suspect. */
  get counts(): { vms: number; live: number; stale: number; suspect: number } {
    this.sweep();
    return { vms: this.#index.size, ...this.#liveness.counts };
  }

  /** Seconds for which answers may still include dead VMs, at the most; 0 if they cannot. Does not examine all VMs. */
  get warmingSeconds(): number {
    this.sweep();
    return this.#liveness.warmingSeconds;
  }

  /** Numbers of VMs by role, status and liveness, also those that are 0. Examines no VM. */
  census(): Census[] {
    this.sweep();
    return this.#liveness.census();
  }

  /** The VMs that are stale or suspect, in no particular order. */
  silent(): Iterable<VmRecord> {
    this.sweep();
    return this.#liveness.silent();
  }

  /** Undefined unless the declared status is `running`. */
  livenessOf(entry: VmRecord): 'live' | 'suspect' | 'stale' | undefined {
    if (entry.status !== 'running') return undefined;
    if (this.isStale(entry)) return 'stale';
    return entry.isSuspect ? 'suspect' : 'live';
  }

  /** Finds leases that have expired since the last sweep and notifies subscribers. Called several times per second. */
  sweep(): void {
    this.#fleet.horizon();
  }

  /**
   * Frees the JSON of {@link snapshot} and {@link liveSnapshot} that was not read for a while, or that exceeds the limit. Called
   * as often as {@link sweep}.
   * @param maxBytes of all cached lists
   */
  limitListCache(maxBytes: number): void {
    this.#index.limitCache(this.clock.listening(), maxBytes);
  }

  /**
   * The most recent changes to a VM, newest first, even if the VM was removed.
   * @param before only changes with a lower revision
   * @throws VregError NOT_FOUND if the journal has no such VM, and the store's errors
   */
  async history(id: string, limit: number, before?: number): Promise<JournalItem[]> {
    const items = await this.#store.history(id, limit, before);
    if (items.length === 0 && before === undefined && !this.has(id)) throw notFound();
    return items;
  }

  /**
   * As {@link changesSince}, up to the current position.
   * @param after revision of the position of a client
   */
  changesSince(after: number): Promise<VmChange[] | undefined> {
    return changesSince(after, this.revision, this.#index.all(), this.#store);
  }

  /**
   * Writes a consistent, checked copy of the store to a new file.
   * @throws the store's errors; the abort reason of the signal, which ends the copy
   */
  backup(path: string, signal?: AbortSignal): Promise<void> {
    return this.#store.backup(path, signal);
  }

  /**
   * Makes all heartbeats since the last save durable, and repeats revocations that could not be committed. After a failure,
   * they remain for the next save.
   * @throws the store's errors about the heartbeats
   */
  async saveHeartbeats(): Promise<void> {
    this.historyClaims.report(this.clock.listening());
    // The same write includes decisions about leases that have expired at the saved listening time.
    this.sweep();
    const saved = this.unsaved.save(this.clock.listening(), (entry) => this.#index.get(entry.id) === entry);
    await Promise.all([saved, this.#repeatRevocations()]);
  }

  async #repeatRevocations(): Promise<void> {
    const { revocations } = this.unsaved;
    // A commit in progress may contain them.
    if (revocations.isEmpty || this.#tokenCommits > 0) return;
    const { changes } = revocations;
    await this.commitTokens(changes, REPEATED_BY).then(
      () => revocations.saved(changes),
      () => {}, // Not reported here: the request for the revocation has already failed with this error.
    );
  }

  #now(): Now {
    const at = new Date(this.clock.now()).toISOString();
    const { silenceFrom } = this.#terms;
    return { at, listening: this.clock.listening(), lease: this.staleAfter, silenceFrom };
  }

  /** The entry including pending changes, to which the next change applies. */
  #current(id: string): VmRecord | undefined {
    const decision = this.#pending.of(id);
    return decision ? decision.entry : this.#index.get(id);
  }

  #require(id: string): VmRecord {
    const entry = this.#current(id);
    if (!entry) throw notFound();
    return entry;
  }

  /**
   * @param change the declared fields before and after the change, as parsed objects
   * @param isRenewed true to move the VM to the end of lists, as if it had just been registered
   */
  async #put(
    before: VmRecord | undefined,
    { from, to }: { from: Spec | undefined; to: Spec },
    seen: LastSeen,
    { by = ANONYMOUS, attach }: WriteOptions,
    isRenewed = false,
  ): Promise<VmRecord> {
    const revision = this.#pending.nextRevision;
    const created = before && !isRenewed ? before.version.created : revision;
    const entry = new VmRecord(to, { created, revision, tag: '' }, seen);
    if (this.#limits) checkLimits(entry, before, usageOf(this.#index, this.#pending), this.#limits);
    const changes = diff(from, inFieldOrder(to));
    const note: VmNote = { type: typeOf(before !== undefined, changes), at: this.clock.now(), by, changes };
    const attachment = attach?.(created) ?? (isRenewed ? this.#onMove?.(entry.id, created) : undefined);
    const isMoved = before !== undefined && before.role !== entry.role;
    const moved = isMoved ? this.identities.recordAfterMove(entry, isoTime(note.at)) : [];
    const records = [...(attachment?.records ?? []), ...moved];
    await this.#commitVm({ id: entry.id, before, after: entry }, note, { ...attachment, records });
    return entry;
  }

  async #commitVm(
    vm: VmDecision,
    note: VmNote,
    { records = [], requires, committed, failed }: Partial<Attachment> = {},
  ): Promise<Position> {
    const apply = (position: Position) => {
      committed?.(position);
      return this.#fleet.apply(vm, note, position);
    };
    try {
      return await this.#pending.commit({ vm, note, records, requires, apply });
    } catch (error) {
      failed?.();
      throw error;
    }
  }
}

function tokenExists(): VregError {
  return new VregError('CONFLICT', 'another replica has created a token with this name', {
    field: 'name',
    hint: 'choose another name; list the tokens: vreg token ls',
  });
}
