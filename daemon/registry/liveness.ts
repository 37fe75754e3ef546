/** Who is live by now, decided when somebody looks; whoever watches is told before the look is answered. */
import type { Clock } from '../clock.ts';
import type { EventLog } from './events.ts';
import { Leases } from './leases.ts';
import type { RegistryObserver, RegistryOptions } from './options.ts';
import type { LastSeen, VmRecord } from './vm-record.ts';

export class Liveness {
  readonly staleAfter: number;
  readonly #clock: Clock;
  readonly #leases: Leases;
  readonly #events: EventLog;
  readonly #observer: RegistryObserver;

  constructor({ clock, staleAfter, massLoss, observer = {} }: RegistryOptions, events: EventLog) {
    this.staleAfter = staleAfter;
    this.#clock = clock;
    this.#leases = new Leases(staleAfter, massLoss);
    this.#events = events;
    this.#observer = observer;
  }

  load(entries: Iterable<VmRecord>): void {
    this.#leases.load(entries, this.#clock.listening() - this.staleAfter);
  }

  /** Whose lease began before this on the listening clock is stale. No read sees a VM go before it is decided how. */
  horizon(revision: number): number {
    const horizon = this.#clock.listening() - this.staleAfter;
    if (!this.#leases.isDue(horizon)) return horizon;
    const { stale, suspect } = this.#leases.sweep(horizon);
    const occasion = { revision, at: this.#clock.now() };
    for (const entry of stale) if (entry.vm.status === 'running') this.#events.add('stale', entry, occasion);
    for (const entry of suspect) this.#events.add('suspect', entry, occasion);
    if (suspect.length > 0) this.#observer.massLoss?.(suspect);
    return horizon;
  }

  signOfLife(): LastSeen {
    return { lastSeen: this.#clock.now(), heardAt: this.#clock.listening() };
  }

  /** @returns true when the VM was stale or suspect until now */
  heard(entry: VmRecord): boolean {
    return this.#leases.heard(entry);
  }

  tellRevived(entry: VmRecord, revision: number): void {
    this.#events.add('revived', entry, { revision, at: this.#clock.now() });
  }

  /** An entry took the place of the one of its id. @returns true when that ended a running VM's silence */
  replaced(before: VmRecord | undefined, entry: VmRecord): boolean {
    // To begin to run is a sign of life, also within the millisecond of the last one.
    const begins = entry.vm.status === 'running' && before?.vm.status !== 'running';
    if (begins || before?.life.heardAt !== entry.life.heardAt) return this.#leases.heard(entry) && !begins;
    this.#leases.replace(entry);
    return false;
  }

  forget(id: string): void {
    this.#leases.forget(id);
  }
}
