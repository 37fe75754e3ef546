/**
 * The rules of the registry, over memory. It knows no HTTP and no files, and is handed its clock and its store.
 *
 * A write is decided on the *staged* state (what is committed plus what is on its way to the disk), goes to the store,
 * and becomes visible when the store has it. So one sync can carry many writes, two racing registrations of one id
 * cannot both win, and a reader never sees what a power cut could take back.
 */
import type { DiscoverQuery } from '../../src/protocol/api.ts';
import type { HistoryItem } from '../../src/protocol/events.ts';
import type { Restriction } from '../../src/protocol/token.ts';
import type { Registration, VmUpdate } from '../../src/protocol/vm.ts';
import type { Clock } from '../clock.ts';
import type { Change, Contents, Store } from '../store/store.ts';
import { checkLimits, type Holdings, type RegistryLimits } from './capacity.ts';
import { EventLog } from './events.ts';
import { HealthReports } from './health.ts';
import { Identities, type Now, type Proof } from './identity.ts';
import type { Lineage } from './lineage.ts';
import { Liveness } from './liveness.ts';
import type { RegistryObserver, RegistryOptions } from './options.ts';
import { PendingRecords } from './pending.ts';
import {
  ANONYMOUS,
  applyUpdate,
  assertPermitted,
  checkEntry,
  checkExpected,
  checkRegistration,
  diff,
  notFound,
  taken,
  typeOf,
  type WriteOptions,
} from './preconditions.ts';
import { Staging } from './staging.ts';
import { Unsaved } from './unsaved.ts';
import { type Filter, VmIndex } from './vm-index.ts';
import { type LastSeen, type Spec, VmRecord } from './vm-record.ts';

export class Registry {
  readonly staleAfter: number;
  readonly clock: Clock;
  readonly events: EventLog;
  readonly #store: Store;

  readonly health = new HealthReports();
  /** What else is to be saved with the next beats. */
  readonly pending = new PendingRecords();
  readonly identities: Identities;
  /** Made once with the store. */
  readonly id: string;
  readonly #observer: RegistryObserver;
  readonly #limits: RegistryLimits | undefined;

  readonly #directory = new VmIndex();
  readonly lineage: Lineage = this.#directory.lineage;
  readonly #liveness: Liveness;
  #revision = 0;
  readonly #staging: Staging;
  readonly unsaved: Unsaved;

  constructor(options: RegistryOptions, contents: Contents) {
    const { store, clock, staleAfter, keptEvents } = options;
    this.#store = store;
    this.clock = clock;
    this.staleAfter = staleAfter;
    this.#observer = options.observer ?? {};
    this.#limits = options.limits;
    this.id = contents.registryId;
    this.identities = new Identities(contents, this.pending, this.#observer);
    this.unsaved = new Unsaved(store, this.pending);
    this.#revision = contents.revision;
    this.#staging = new Staging(store, contents.revision);
    this.events = new EventLog(contents.revision, keptEvents);
    this.#liveness = new Liveness(options, this.events);
    for (const vm of contents.vms) this.#directory.put(VmRecord.fromStored(vm));
    this.#liveness.load(this.#directory.all());
  }

  /** Number of changes committed so far. */
  get revision(): number {
    return this.#revision;
  }

  /**
   * Adds a VM that is not there yet; durable when this resolves.
   * @throws VregError CONFLICT when the id is taken, FORBIDDEN, and the store's errors
   */
  async register(registration: Registration, options: WriteOptions = {}): Promise<VmRecord> {
    assertPermitted(options.restriction, registration);
    if (this.#current(registration.id)) throw taken();
    checkRegistration(options.restriction);
    const life = this.#liveness.signOfLife();
    const registeredAt = new Date(life.lastSeen).toISOString();
    return this.#put(undefined, { ...registration, registeredAt }, life, options);
  }

  /**
   * Registers a VM, or replaces all that is declared of the one there; its registration keeps its time and its place.
   * Repeating it changes nothing, but is a sign of life when it says `running`.
   * @throws VregError PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  async replace(
    registration: Registration,
    options: WriteOptions = {},
  ): Promise<{ entry: VmRecord; created: boolean }> {
    const { expect, restriction, alongside } = options;
    const before = this.#current(registration.id);
    if (before) checkEntry(restriction, before);
    assertPermitted(restriction, registration);
    checkExpected(before, expect);
    if (!before) return { entry: await this.register(registration, options), created: true };
    const vm: Spec = { ...registration, registeredAt: before.vm.registeredAt };
    const running = registration.status === 'running';
    const isRepeated = Object.keys(diff(before.vm, vm)).length === 0 && this.#directory.get(vm.id) === before;
    if (isRepeated && !alongside) {
      return { entry: running ? this.heartbeat(vm.id) : before, created: false };
    }
    const entry = await this.#put(before, vm, running ? this.#liveness.signOfLife() : before.life, options);
    if (!running) this.identities.markIdle(vm.id);
    return { entry, created: false };
  }

  /**
   * Changes fields of a VM. Setting the status to `running` is a sign of life; nothing else here is.
   * @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors
   */
  async update(id: string, update: VmUpdate, options: WriteOptions = {}): Promise<VmRecord> {
    const before = this.#require(id);
    checkEntry(options.restriction, before);
    checkExpected(before, options.expect);
    const life = update.status === 'running' ? this.#liveness.signOfLife() : before.life;
    const entry = await this.#put(before, applyUpdate(before.vm, update), life, options);
    if (update.status !== undefined && update.status !== 'running') this.identities.markIdle(id);
    return entry;
  }

  /** @throws VregError NOT_FOUND, PRECONDITION_FAILED, FORBIDDEN, and the store's errors */
  async deregister(id: string, { by = ANONYMOUS, expect, restriction }: WriteOptions = {}): Promise<void> {
    const before = this.#require(id);
    checkEntry(restriction, before);
    checkExpected(before, expect);
    const revision = this.#staging.next;
    const note = { type: 'deregistered', at: this.clock.now(), by, changes: diff(before.vm, undefined) } as const;
    await this.#commit(id, undefined, { kind: 'remove', id, revision, note });
  }

  /**
   * A sign of life. Visible at once, durable with the next {@link saveBeats}; it is no change and has no revision.
   * @param proof what the VM's agent says of itself and of its services; a plain beat has none
   * @throws VregError NOT_FOUND, FORBIDDEN, IDENTITY_CONFLICT when another incarnation of the VM is alive
   */
  heartbeat(id: string, proof?: Proof, restriction?: Restriction): VmRecord {
    const entry = this.get(id);
    assertPermitted(restriction, entry.vm);
    // That it was stale is told before it is revived, even if no sweep has seen it yet.
    this.sweep();
    if (proof) this.identities.prove(entry, proof, this.#moment());
    entry.touch(this.#liveness.signOfLife());
    this.unsaved.add(entry);
    if (proof?.health) this.health.put(entry, proof.health);
    if (this.#liveness.heard(entry) && entry.vm.status === 'running') this.#liveness.tellRevived(entry, this.#revision);
    this.events.heartbeat(entry);
    return entry;
  }

  has(id: string): boolean {
    return this.#directory.get(id) !== undefined;
  }

  /** @throws VregError NOT_FOUND */
  get(id: string): VmRecord {
    const entry = this.#directory.get(id);
    if (!entry) throw notFound();
    return entry;
  }

  /** Newest registration first. Filtering by `running` leaves stale VMs out, as the original registry does. */
  list(filter: Filter): readonly VmRecord[] {
    return this.#directory.list(filter, this.#horizon());
  }

  /** The live VMs of a role, oldest registration first, or as {@link HealthReports.offering} where a service is asked for. */
  discover(role: string, { service, passing = false, strict = false }: DiscoverQuery = {}): VmRecord[] {
    let found = this.#directory.live(role, this.#horizon());
    if (service !== undefined) found = this.health.offering(found, service, passing);
    if (!strict) return found;
    const horizon = this.clock.now() - this.staleAfter;
    return found.filter(({ life }) => life.lastSeen >= horizon);
  }

  isStale(entry: VmRecord): boolean {
    return entry.leaseFrom < this.#horizon();
  }

  /** Finds out which VMs went silent since the last sweep, and tells the watchers; called every few hundred milliseconds. */
  sweep(): void {
    this.#horizon();
  }

  /**
   * The last changes of a VM, newest first, before a revision where one is given; also of one that has gone.
   * @throws VregError NOT_FOUND when there never was one, as far as the journal goes back
   */
  async history(id: string, limit: number, before?: number): Promise<HistoryItem[]> {
    const items = await this.#store.history(id, limit, before);
    if (items.length === 0 && before === undefined && !this.has(id)) throw notFound();
    return items;
  }

  /** Writes a consistent, checked copy of everything into a new file. @throws the store's errors */
  backup(path: string): Promise<void> {
    return this.#store.backup(path);
  }

  /** Makes the beats since the last save durable; on failure they stay due for the next. */
  saveBeats(): Promise<void> {
    return this.unsaved.save(this.clock.listening(), (entry) => this.#directory.get(entry.vm.id) === entry);
  }

  #moment(): Now {
    const at = new Date(this.clock.now()).toISOString();
    return { at, listening: this.clock.listening(), lease: this.staleAfter, revision: this.#revision };
  }

  #horizon(): number {
    return this.#liveness.horizon(this.#revision);
  }

  #holdings(): Holdings {
    const { size, bytes } = this.#directory;
    return { vms: size + this.#staging.added, bytes: bytes + this.#staging.growth };
  }

  #current(id: string): VmRecord | undefined {
    const decision = this.#staging.of(id);
    return decision ? decision.entry : this.#directory.get(id);
  }

  #require(id: string): VmRecord {
    const entry = this.#current(id);
    if (!entry) throw notFound();
    return entry;
  }

  async #put(
    before: VmRecord | undefined,
    vm: Spec,
    life: LastSeen,
    { by = ANONYMOUS, alongside }: WriteOptions,
  ): Promise<VmRecord> {
    const revision = this.#staging.next;
    const entry = new VmRecord(vm, { created: before?.version.created ?? revision, revision }, life);
    if (this.#limits) checkLimits(entry, before, this.#holdings(), this.#limits);
    const changes = diff(before?.vm, entry.vm);
    const note = { type: typeOf(before !== undefined, changes), at: this.clock.now(), by, changes };
    const records = alongside?.(entry.version.created) ?? [];
    await this.#commit(vm.id, entry, { kind: 'put', vm: entry.toStored(), revision, note, records });
    return entry;
  }

  async #commit(id: string, entry: VmRecord | undefined, change: Change): Promise<void> {
    await this.#staging.commit(id, entry, change, this.#current(id));
    const { revision, note } = change;
    this.sweep();
    this.#revision = revision;
    const shown = entry ?? this.get(id);
    const isRevived = entry !== undefined && this.#show(entry);
    if (!entry) this.#hide(shown);
    // Of an entry that comes or goes, the entry itself says all.
    const { changes, ...occasion } = note;
    const changed = note.type === 'updated' || note.type === 'status';
    this.events.add(note.type, shown, { revision, ...occasion, ...(changed ? { changes } : {}) });
    // After its change: who was told a revision's liveness must have been told the revision.
    if (isRevived) this.#liveness.tellRevived(shown, revision);
  }

  /** @returns true when a sign of life that came with the change ended a running VM's silence */
  #show(entry: VmRecord): boolean {
    const before = this.#directory.get(entry.vm.id);
    this.#directory.put(entry);
    this.health.trim(entry);
    if (before) this.unsaved.delete(before);
    if (before && before.life.heardAt > entry.life.heardAt) {
      // A beat came while the change was on its way: it is not taken back, and is saved again, since the change has
      // carried an older sign of life to the disk.
      entry.touch(before.life);
      this.unsaved.add(entry);
    }
    return this.#liveness.replaced(before, entry);
  }

  #hide(entry: VmRecord): void {
    this.#directory.remove(entry);
    this.unsaved.delete(entry);
    this.health.forget(entry.vm.id);
    this.identities.forget(entry.vm.id);
    this.#observer.removed?.(entry.vm.id);
    this.#liveness.forget(entry.vm.id);
  }
}
