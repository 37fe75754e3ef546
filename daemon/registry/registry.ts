/**
 * The rules of the registry, over memory. It knows no HTTP and no files, and is handed its clock and its store.
 *
 * A write is decided on the *staged* state (what is committed plus what is on its way to the disk), goes to the store,
 * and becomes visible when the store has it. So one sync can carry many writes, two racing registrations of one id
 * cannot both win, and a reader never sees what a power cut could take back.
 */
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration, Vm, VmUpdate } from '../../src/protocol/vm.ts';
import type { Clock } from '../clock.ts';
import type { Beat, Change, Contents, Store } from '../store/store.ts';
import { Entry } from './entry.ts';

export interface RegistryOptions {
  store: Store;
  clock: Clock;
  /** Listening time without a sign of life after which a VM is stale, in milliseconds. */
  staleAfter: number;
}

export interface Filter {
  role?: string | undefined;
  status?: string | undefined;
}

export class Registry {
  readonly staleAfter: number;
  readonly #store: Store;
  readonly #clock: Clock;

  /** Committed entries, oldest registration first. */
  readonly #entries = new Map<string, Entry>();
  readonly #byRole = new Map<string, Map<string, Entry>>();
  #revision = 0;

  /** What is on its way to the disk, newest decision per id; `undefined` is a removal. */
  readonly #staged = new Map<string, Entry | undefined>();
  #stagedRevision = 0;
  /** Grows when staged decisions are thrown away, so that a late failure cannot throw away newer ones. */
  #generation = 0;

  /** Entries heard since the last save of beats. */
  readonly #heard = new Set<Entry>();

  constructor({ store, clock, staleAfter }: RegistryOptions, contents: Contents) {
    this.#store = store;
    this.#clock = clock;
    this.staleAfter = staleAfter;
    this.#revision = contents.revision;
    this.#stagedRevision = contents.revision;
    for (const vm of contents.vms) this.#show(Entry.fromStored(vm));
  }

  /** Number of changes committed so far. */
  get revision(): number {
    return this.#revision;
  }

  get size(): number {
    return this.#entries.size;
  }

  /**
   * Adds a VM that is not there yet; durable when this resolves.
   * @throws VregError CONFLICT when the id is taken, and the store's errors
   */
  async register(registration: Registration): Promise<Entry> {
    if (this.#current(registration.id)) {
      throw new VregError('CONFLICT', 'VM already registered', {
        field: 'id',
        hint: 'change it with PATCH (vreg update), or register with --if-exists update',
      });
    }
    const now = this.#clock.now();
    const registeredAt = new Date(now).toISOString();
    const revision = this.#nextRevision();
    const entry = new Entry({ ...registration, registeredAt }, { created: revision, revision }, this.#signOfLife(now));
    await this.#commit(entry.vm.id, entry, { kind: 'put', vm: entry.toStored() });
    return entry;
  }

  /**
   * Changes fields of a VM. Setting the status to `running` is a sign of life; nothing else here is.
   * @throws VregError NOT_FOUND, and the store's errors
   */
  async update(id: string, update: VmUpdate): Promise<Entry> {
    const before = this.#require(id);
    const life = update.status === 'running' ? this.#signOfLife(this.#clock.now()) : before.life;
    const order = { created: before.order.created, revision: this.#nextRevision() };
    const entry = new Entry(applyUpdate(before.vm, update), order, life);
    await this.#commit(id, entry, { kind: 'put', vm: entry.toStored() });
    return entry;
  }

  /** @throws VregError NOT_FOUND, and the store's errors */
  async deregister(id: string): Promise<void> {
    this.#require(id);
    await this.#commit(id, undefined, { kind: 'remove', id, revision: this.#nextRevision() });
  }

  /**
   * A sign of life. Visible at once, durable with the next {@link saveBeats}; it is no change and has no revision.
   * @throws VregError NOT_FOUND
   */
  heartbeat(id: string): Entry {
    const entry = this.#entries.get(id);
    if (!entry) throw notFound();
    entry.hear(this.#signOfLife(this.#clock.now()));
    this.#heard.add(entry);
    return entry;
  }

  has(id: string): boolean {
    return this.#entries.has(id);
  }

  /** @throws VregError NOT_FOUND */
  get(id: string): Entry {
    const entry = this.#entries.get(id);
    if (!entry) throw notFound();
    return entry;
  }

  /** Newest registration first. Filtering by `running` leaves stale VMs out, as the original registry does. */
  list({ role, status }: Filter): Entry[] {
    const source = role ? (this.#byRole.get(role)?.values() ?? []) : this.#entries.values();
    const found: Entry[] = [];
    const horizon = this.#horizon();
    for (const entry of source) {
      if (status && entry.vm.status !== status) continue;
      if (status === 'running' && entry.life.heardAt < horizon) continue;
      found.push(entry);
    }
    return found.reverse();
  }

  /** The live VMs of a role, oldest registration first. */
  discover(role: string): Entry[] {
    const horizon = this.#horizon();
    const found: Entry[] = [];
    for (const entry of this.#byRole.get(role)?.values() ?? []) {
      if (entry.vm.status === 'running' && entry.life.heardAt >= horizon) found.push(entry);
    }
    return found;
  }

  isStale(entry: Entry): boolean {
    return entry.life.heardAt < this.#horizon();
  }

  get hasUnsavedBeats(): boolean {
    return this.#heard.size > 0;
  }

  /** Makes the beats since the last save durable; on failure they stay due for the next. */
  async saveBeats(): Promise<void> {
    const entries = [...this.#heard].filter((entry) => this.#entries.get(entry.vm.id) === entry);
    this.#heard.clear();
    const beats: Beat[] = entries.map((entry) => ({ id: entry.vm.id, ...entry.life }));
    try {
      await this.#store.saveBeats(beats, this.#clock.listening());
    } catch (error) {
      for (const entry of entries) this.#heard.add(entry);
      throw error;
    }
  }

  /** Heard later than this on the listening clock is not stale. */
  #horizon(): number {
    return this.#clock.listening() - this.staleAfter;
  }

  #signOfLife(now: number): { lastSeen: number; heardAt: number } {
    return { lastSeen: now, heardAt: this.#clock.listening() };
  }

  #current(id: string): Entry | undefined {
    return this.#staged.has(id) ? this.#staged.get(id) : this.#entries.get(id);
  }

  #require(id: string): Entry {
    const entry = this.#current(id);
    if (!entry) throw notFound();
    return entry;
  }

  #nextRevision(): number {
    return this.#stagedRevision + 1;
  }

  async #commit(id: string, entry: Entry | undefined, change: Change): Promise<void> {
    const revision = change.kind === 'put' ? change.vm.revision : change.revision;
    const generation = this.#generation;
    this.#staged.set(id, entry);
    this.#stagedRevision = revision;
    try {
      await this.#store.commit(change);
    } catch (error) {
      if (generation === this.#generation) {
        this.#generation++;
        this.#staged.clear();
        this.#stagedRevision = this.#revision;
      }
      throw error;
    }
    if (this.#staged.get(id) === entry && generation === this.#generation) this.#staged.delete(id);
    this.#revision = revision;
    if (entry) this.#show(entry);
    else this.#hide(id);
  }

  #show(entry: Entry): void {
    const { id, role } = entry.vm;
    const before = this.#entries.get(id);
    // `Map.set` keeps the place of a key that is there, so an update keeps its place in the order.
    this.#entries.set(id, entry);
    if (before && before.vm.role !== role) this.#byRole.get(before.vm.role)?.delete(id);
    const ofRole = this.#byRole.get(role) ?? new Map<string, Entry>();
    this.#byRole.set(role, ofRole.set(id, entry));
    // A beat that came while the change was on its way is not taken back by it.
    if (before && before.life.heardAt > entry.life.heardAt) entry.hear(before.life);
    if (before && this.#heard.delete(before)) this.#heard.add(entry);
  }

  #hide(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#entries.delete(id);
    this.#byRole.get(entry.vm.role)?.delete(id);
    this.#heard.delete(entry);
  }
}

function applyUpdate(vm: Omit<Vm, 'lastSeen'>, update: VmUpdate): Omit<Vm, 'lastSeen'> {
  const { services, metadata, ...rest } = { ...vm, ...update };
  return { ...rest, ...(services ? { services } : {}), ...(metadata ? { metadata } : {}) };
}

function notFound(): VregError {
  return new VregError('NOT_FOUND', 'VM not found', { field: 'id', hint: 'see what is registered: vreg ls' });
}
