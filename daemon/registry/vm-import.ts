/** Registers the VMs of another registry, with their times: in one commit, or, with several replicas, one by one. */
import { VregError } from '../../src/protocol/errors.ts';
import type { ImportedVm, Registration } from '../../src/protocol/vm.ts';
import type { ForEach } from '../store/store.ts';
import { checkLimits, type RegistryLimits, usageOf } from './capacity.ts';
import type { Fleet, VmNote } from './fleet.ts';
import { ANONYMOUS, alreadyRegistered, diff, type WriteOptions } from './preconditions.ts';
import { earlierSignOfLife } from './signs-of-life.ts';
import { VmRecord } from './vm-record.ts';
import { type Changes, type Decision, Superseded } from './writes.ts';

export type ImportOptions = Pick<WriteOptions, 'by' | 'assertActive'> & { forEach: ForEach };

export class VmImport {
  readonly #fleet: Fleet;
  readonly #pending: Changes;
  readonly #limits: RegistryLimits | undefined;
  /** Resolves when the import in progress is done. */
  #last: Promise<void> | undefined;

  constructor(fleet: Fleet, pending: Changes, limits: RegistryLimits | undefined) {
    this.#fleet = fleet;
    this.#pending = pending;
    this.#limits = limits;
  }

  /**
   * Resolves when the import in progress is done; undefined if other changes need not wait for it. Await it in a loop: another import
   * may begin right after it.
   */
  get running(): Promise<void> | undefined {
    return this.#pending.commitsTogether ? this.#last : undefined;
  }

  /**
   * Registers VMs in one commit, the one with the oldest `registeredAt` first. Each has its own position, journal entry and
   * event. An import is not a sign of life: the VMs keep their times, except that a future one becomes the current one.
   * @returns in the order of the entries, each VM, or the error for which its entry was not registered: CONFLICT, TOO_LARGE,
   * TOO_MANY_REQUESTS. With several replicas, each VM is committed alone, so its error may also be one of the store
   * @throws the store's errors, unless there are several replicas; then nothing was registered
   */
  async run(entries: readonly ImportedVm[], options: ImportOptions): Promise<(VmRecord | VregError)[]> {
    while (this.#last) await this.#last;
    const work = this.#run(entries, options).finally(() => {
      this.#last = undefined;
    });
    this.#last = work.then(
      () => {},
      () => {},
    );
    return work;
  }

  async #run(
    entries: readonly ImportedVm[],
    { by = ANONYMOUS, assertActive, forEach }: ImportOptions,
  ): Promise<(VmRecord | VregError)[]> {
    // Changes that were accepted before the import must not fail after it was validated against them.
    await this.#pending.settle();
    assertActive?.();
    const { clock, index: visible, liveness } = this.#fleet;
    const now = clock.now();
    const timed: { index: number; registration: Registration; registered: number; seen: number }[] = [];
    await forEach(entries, ({ registeredAt, lastSeen, ...registration }) => {
      const registered = registeredAt === undefined ? now : Math.min(now, Date.parse(registeredAt));
      const seen = lastSeen === undefined ? registered : Date.parse(lastSeen);
      timed.push({ index: timed.length, registration, registered, seen });
    });
    const outcomes: (VmRecord | VregError)[] = [];
    const decisions: (Decision & { index: number })[] = [];
    const added = new Set<string>();
    const { nextRevision } = this.#pending;
    const usage = usageOf(visible, this.#pending);
    await forEach(
      timed.sort((a, b) => a.registered - b.registered),
      ({ index, registration, registered, seen }) => {
        const { id } = registration;
        const revision = nextRevision === 0 ? 0 : nextRevision + decisions.length;
        try {
          if (added.has(id) || visible.get(id)) throw alreadyRegistered();
          const vm = { ...registration, registeredAt: new Date(registered).toISOString() };
          const version = { created: revision, revision, tag: '' };
          const entry = new VmRecord(vm, version, earlierSignOfLife(clock, seen));
          if (this.#limits) checkLimits(entry, undefined, usage, this.#limits);
          usage.vms++;
          usage.bytes += entry.weight;
          added.add(id);
          outcomes[index] = entry;
          const note = { type: 'registered', at: now, by, changes: diff(undefined, vm) } as const;
          decisions.push({ index, ...this.#decisionOf(entry, note) });
        } catch (error) {
          if (!(error instanceof VregError)) throw error;
          outcomes[index] = error;
        }
      },
    );
    try {
      if (decisions.length > 0) {
        const errors = await this.#pending.commitAll(decisions, forEach);
        for (const [at, error] of errors) {
          outcomes[decisions[at]!.index] = error instanceof Superseded ? alreadyRegistered() : error;
        }
      }
    } finally {
      liveness.sort();
    }
    return outcomes;
  }

  #decisionOf(entry: VmRecord, note: VmNote): Decision {
    const { type, at, by } = note;
    const { index, events, liveness } = this.#fleet;
    return {
      vm: { id: entry.id, before: undefined, after: entry },
      note,
      records: [],
      apply: (position) => {
        index.put(entry);
        const wasStale = liveness.add(entry);
        return () => {
          events.add(type, entry, { position, at, by });
          // With several replicas, the VM may have been changed or removed since it became visible.
          const current = wasStale ? index.get(entry.id) : undefined;
          if (current) liveness.notifyIfStale(current, position);
        };
      },
    };
  }
}
