/**
 * The rules of the registry, over memory. The module knows no HTTP and no files, and is handed its clock and its store.
 *
 * A write is decided against the pending state (everything committed plus everything on its way to the disk), goes to the
 * store, and becomes visible when it is durable. So one sync can carry many writes, only one of two racing registrations
 * of an id can succeed, and no reader sees a change that a power failure could undo.
 */
import type { DiscoverQuery } from '../../src/protocol/api.ts';
import type { HistoryItem } from '../../src/protocol/events.ts';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import type { Registration, VmUpdate } from '../../src/protocol/vm.ts';
import type { Clock } from '../clock.ts';
import type { Change, Contents, RecordChange, Store } from '../store/store.ts';
import { checkLimits, type RegistryLimits, type Usage } from './capacity.ts';
import { EventLog } from './events.ts';
import { HealthReports } from './health.ts';
import { Identities, type Now, type Proof } from './identity.ts';
import { Liveness } from './leases.ts';
import type { RegistryOptions } from './options.ts';
import {
  ANONYMOUS,
  alreadyRegistered,
  applyUpdate,
  assertExpected,
  assertMayChange,
  assertMayReplace,
  assertPermitted,
  assertSameRegistration,
  diff,
  isMove,
  notFound,
  type TokenRestriction,
  typeOf,
  type WriteOptions,
} from './preconditions.ts';
import { type Filter, type Lineage, VmIndex } from './vm-index.ts';
import { type LastSeen, type Spec, VmRecord } from './vm-record.ts';
import { type Attachment, HeartbeatBuffer, PendingChanges } from './writes.ts';

export class Registry {
  /** Created with the store; clients recognize the registry by it. */
  readonly id: string;
  /** The lease: milliseconds of listening time. */
  readonly staleAfter: number;
  readonly clock: Clock;
  readonly events: EventLog;
  readonly health = new HealthReports();
  readonly identities: Identities;
  readonly lineage: Lineage;
  /** Heartbeats and records that the next {@link saveHeartbeats} makes durable. */
  readonly unsaved: HeartbeatBuffer;
  readonly #store: Store;
  readonly #limits: RegistryLimits | undefined;
  readonly #onDeregister: RegistryOptions['onDeregister'];
  readonly #index = new VmIndex();
  readonly #liveness: Liveness;
  readonly #pending: PendingChanges;
  #revision: number;

  constructor(options: RegistryOptions, contents: Contents) {
    const { store, clock, staleAfter, eventLog, observer, limits, onDeregister } = options;
    this.id = contents.registryId;
    this.staleAfter = staleAfter;
    this.clock = clock;
    this.#store = store;
    this.#limits = limits;
    this.#onDeregister = onDeregister;
    this.#revision = contents.revision;
    this.#pending = new PendingChanges(store, contents.revision);
    this.unsaved = new HeartbeatBuffer(store);
    this.identities = new Identities(contents, this.unsaved.records, {
      ...observer,
      conflict: (conflict) => {
        observer?.conflict?.(conflict);
        this.#publishConflict(conflict);
      },
    });
    this.events = new EventLog(contents.revision, eventLog);
    this.#liveness = new Liveness(options, this.events, this.unsaved);
    for (const vm of contents.vms) this.#index.put(VmRecord.fromStored(vm));
    this.lineage = this.#index.lineage;
    this.#liveness.load([...this.#index.all()], contents.records);
  }

  /** Number of committed changes. */
  get revision(): number {
    return this.#revision;
  }

  /**
   * Registers a new VM. Durable when this resolves.
   * @throws VregError CONFLICT if the id is taken, FORBIDDEN, and the store's errors
   */
  async register(registration: Registration, options: WriteOptions = {}): Promise<VmRecord> {
    assertPermitted(options.restriction, registration);
    if (this.#current(registration.id)) throw alreadyRegistered();
    assertSameRegistration(options.restriction);
    const seen = this.#liveness.signOfLife();
    const registeredAt = new Date(seen.lastSeen).toISOString();
    return this.#put(undefined, { ...registration, registeredAt }, seen, options);
  }

  /**
   * Registers a VM, or replaces the declared fields of a registered one, which keeps `registeredAt` and its place in lists.
   * A repetition changes nothing, but is a sign of life if its status is `running`. A change of role by a limited token
   * renews both, so that the VM is the last of its new role.
   * @throws VregError PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  async replace(
    registration: Registration,
    options: WriteOptions = {},
  ): Promise<{ entry: VmRecord; created: boolean }> {
    const { expect, restriction, attach } = options;
    const before = this.#current(registration.id);
    if (before) assertMayReplace(restriction, before, registration);
    else assertPermitted(restriction, registration);
    assertExpected(before, expect);
    if (!before) return { entry: await this.register(registration, options), created: true };
    const isRenewed = isMove(restriction, before, registration);
    const registeredAt = isRenewed ? new Date(this.clock.now()).toISOString() : before.vm.registeredAt;
    const vm: Spec = { ...registration, registeredAt };
    const running = registration.status === 'running';
    const isRepeated = Object.keys(diff(before.vm, vm)).length === 0 && this.#index.get(vm.id) === before;
    if (isRepeated && !attach) {
      return { entry: running ? this.heartbeat(vm.id) : before, created: false };
    }
    const seen = running ? this.#liveness.signOfLife() : before.seen;
    const entry = await this.#put(before, vm, seen, options, isRenewed);
    if (!running) this.identities.markIdle(vm.id);
    return { entry, created: false };
  }

  /**
   * Changes fields of a VM. Only setting the status to `running` is a sign of life.
   * @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  async update(id: string, update: VmUpdate, options: WriteOptions = {}): Promise<VmRecord> {
    const before = this.#require(id);
    assertMayChange(options.restriction, before);
    assertExpected(before, options.expect);
    const seen = update.status === 'running' ? this.#liveness.signOfLife() : before.seen;
    const entry = await this.#put(before, applyUpdate(before.vm, update), seen, options);
    if (update.status !== undefined && update.status !== 'running') this.identities.markIdle(id);
    return entry;
  }

  /** @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors */
  async deregister(id: string, { by = ANONYMOUS, expect, restriction }: WriteOptions = {}): Promise<void> {
    const before = this.#require(id);
    assertMayChange(restriction, before);
    assertExpected(before, expect);
    const revision = this.#pending.next;
    const note = { type: 'deregistered', at: this.clock.now(), by, changes: diff(before.vm, undefined) } as const;
    const change = (records: readonly RecordChange[]): Change => ({ kind: 'remove', id, revision, note, records });
    await this.#commit(id, undefined, change, this.#onDeregister?.(id));
  }

  /**
   * A sign of life. Visible at once, durable with the next {@link saveHeartbeats}. It is no change and has no revision.
   * @param proof identity and service health from the VM's agent; a plain heartbeat has none
   * @throws VregError NOT_FOUND, FORBIDDEN, UNAUTHORIZED, IDENTITY_CONFLICT as {@link Identities.prove}
   */
  heartbeat(id: string, proof?: Proof, restriction?: TokenRestriction): VmRecord {
    const entry = this.get(id);
    if (proof?.replace) assertMayChange(restriction, entry);
    else assertPermitted(restriction, entry.vm);
    // Subscribers receive `stale` before `revived`, even if no sweep has noticed the expired lease yet.
    this.sweep();
    if (proof) this.identities.prove(entry, proof, this.#now());
    entry.touch(this.#liveness.signOfLife());
    this.unsaved.add(entry);
    if (proof?.health) this.health.put(entry, proof.health);
    if (this.#liveness.renew(entry) && entry.vm.status === 'running') {
      this.#liveness.notifyRevived(entry, this.#revision);
    }
    this.events.heartbeat(entry);
    return entry;
  }

  /** @throws VregError as {@link Identities.assertVacant}, NOT_FOUND */
  assertVacant(id: string, claim: { address: string; from: string | undefined }): void {
    this.identities.assertVacant(this.get(id), claim, this.#now());
  }

  has(id: string): boolean {
    return this.#index.get(id) !== undefined;
  }

  /** @throws VregError NOT_FOUND */
  get(id: string): VmRecord {
    const entry = this.#index.get(id);
    if (!entry) throw notFound();
    return entry;
  }

  /** Newest registration first. The filter `running` leaves stale VMs out, as the original registry does. */
  list(filter: Filter): readonly VmRecord[] {
    return this.#index.list(filter, this.#horizon());
  }

  /** The live VMs of a role, oldest registration first; with a service, in the order of {@link HealthReports.offering}. */
  discover(role: string, { service, passing = false, strict = false }: DiscoverQuery = {}): VmRecord[] {
    let found = this.#index.live(role, this.#horizon());
    if (service !== undefined) found = this.health.offering(found, service, passing);
    if (!strict) return found;
    const now = this.clock.now();
    return found.filter((entry) => {
      const silence = now - entry.seen.lastSeen;
      // It is negative if the wall clock was set back; then the time of silence is not known.
      return silence >= 0 && silence <= this.staleAfter && !this.#liveness.mayHaveWaited(entry);
    });
  }

  isStale(entry: VmRecord): boolean {
    // Taken first, because the sweep can extend the lease.
    const horizon = this.#horizon();
    return entry.leaseFrom < horizon;
  }

  /** Undefined unless the declared status is `running`. */
  livenessOf(entry: VmRecord): 'live' | 'suspect' | 'stale' | undefined {
    if (entry.vm.status !== 'running') return undefined;
    if (this.isStale(entry)) return 'stale';
    return entry.isSuspect ? 'suspect' : 'live';
  }

  /** Looks for leases that have expired since the last sweep and notifies subscribers. Called several times per second. */
  sweep(): void {
    this.#horizon();
  }

  /**
   * The most recent changes of a VM, newest first, also of a VM that was removed.
   * @param before only changes with a lower revision
   * @throws VregError NOT_FOUND if the journal has no such VM, and the store's errors
   */
  async history(id: string, limit: number, before?: number): Promise<HistoryItem[]> {
    const items = await this.#store.history(id, limit, before);
    if (items.length === 0 && before === undefined && !this.has(id)) throw notFound();
    return items;
  }

  /** Writes a consistent, checked copy of the database to a new file. @throws the store's errors */
  backup(path: string): Promise<void> {
    return this.#store.backup(path);
  }

  /** Makes all heartbeats since the last save durable. After a failure they stay for the next save. @throws the store's errors */
  saveHeartbeats(): Promise<void> {
    // Leases that have expired by the saved listening time are decided in the same write.
    this.sweep();
    return this.unsaved.save(this.clock.listening(), (entry) => this.#index.get(entry.vm.id) === entry);
  }

  #now(): Now {
    const at = new Date(this.clock.now()).toISOString();
    return { at, listening: this.clock.listening(), lease: this.staleAfter, revision: this.#revision };
  }

  /** Publishes a conflict, like a liveness event, with the revision of the change before it. */
  #publishConflict(conflict: Conflict): void {
    this.events.add('conflict', this.get(conflict.id), { revision: this.#revision, at: this.clock.now(), conflict });
  }

  #horizon(): number {
    return this.#liveness.horizon(this.#revision);
  }

  #usage(): Usage {
    const { size, bytes } = this.#index;
    return { vms: size + this.#pending.added, bytes: bytes + this.#pending.growth };
  }

  /** The entry as the next change sees it, including pending changes. */
  #current(id: string): VmRecord | undefined {
    const decision = this.#pending.of(id);
    return decision ? decision.entry : this.#index.get(id);
  }

  #require(id: string): VmRecord {
    const entry = this.#current(id);
    if (!entry) throw notFound();
    return entry;
  }

  /** @param isRenewed the VM gets a new place in the order, as if it had been registered again */
  async #put(
    before: VmRecord | undefined,
    vm: Spec,
    seen: LastSeen,
    { by = ANONYMOUS, attach }: WriteOptions,
    isRenewed = false,
  ): Promise<VmRecord> {
    const revision = this.#pending.next;
    const created = before && !isRenewed ? before.version.created : revision;
    const entry = new VmRecord(vm, { created, revision }, seen);
    if (this.#limits) checkLimits(entry, before, this.#usage(), this.#limits);
    const changes = diff(before?.vm, entry.vm);
    const note = { type: typeOf(before !== undefined, changes), at: this.clock.now(), by, changes };
    const change = (records: readonly RecordChange[]): Change => {
      return { kind: 'put', vm: entry.toStored(), revision, note, records };
    };
    await this.#commit(vm.id, entry, change, attach?.(entry.version.created));
    return entry;
  }

  async #commit(
    id: string,
    entry: VmRecord | undefined,
    makeChange: (records: readonly RecordChange[]) => Change,
    attachment?: Attachment,
  ): Promise<void> {
    const change = makeChange(attachment?.records ?? []);
    try {
      await this.#pending.commit(id, entry, change, this.#current(id));
    } catch (error) {
      attachment?.failed();
      throw error;
    }
    attachment?.committed();
    const { revision, note } = change;
    this.sweep();
    this.#revision = revision;
    const visible = entry ?? this.get(id);
    const isRevived = entry !== undefined && this.#show(entry);
    if (!entry) this.#hide(visible);
    const { changes, ...occasion } = note;
    // The event of a VM that is added or removed contains the whole entry already.
    const hasChanges = note.type === 'updated' || note.type === 'status';
    this.events.add(note.type, visible, { revision, ...occasion, ...(hasChanges ? { changes } : {}) });
    // `revived` comes after the change, because a client that knows the liveness at a revision must know that revision.
    if (isRevived) this.#liveness.notifyRevived(visible, revision);
  }

  /** Makes a committed entry visible. @returns true if the change ended the silence of a running VM */
  #show(entry: VmRecord): boolean {
    const before = this.#index.get(entry.vm.id);
    this.#index.put(entry);
    this.health.trim(entry);
    if (before) this.unsaved.delete(before);
    if (before && before.seen.heardAt > entry.seen.heardAt) {
      // A heartbeat arrived while the change was being committed. Take it over and save it again, because the change has
      // written an older sign of life to the disk.
      entry.touch(before.seen);
      this.unsaved.add(entry);
    }
    return this.#liveness.replace(before, entry);
  }

  #hide(entry: VmRecord): void {
    this.#index.remove(entry);
    this.unsaved.delete(entry);
    this.health.forget(entry.vm.id);
    this.identities.forget(entry.vm.id);
    this.#liveness.forget(entry.vm.id);
  }
}
