/** The state of a list of VMs, kept up to date with events. Pure: the caller passes lists, events and times. */
import type { VmWithLiveness } from '../protocol/api.ts';
import type { StreamEvent } from '../protocol/events.ts';

/**
 * Seconds over which the rate of heartbeats is averaged: the default interval of agents, so that each of them sends one heartbeat
 * within it.
 */
const RATE_WINDOW = 60;

export class LiveFleet {
  readonly #isListed: (vm: VmWithLiveness) => boolean;
  readonly #vms = new Map<string, VmWithLiveness>();
  /** Heartbeats by the second in which they arrived. */
  readonly #heartbeats = new Map<number, number>();
  #since: number | undefined;
  #listed: readonly VmWithLiveness[] | undefined;

  /** @param isListed whether a VM belongs to the list, as it is now */
  constructor(isListed: (vm: VmWithLiveness) => boolean) {
    this.#isListed = isListed;
  }

  /** The VMs of the list, newest registration first. The array stays the same until one of them changes. */
  get vms(): readonly VmWithLiveness[] {
    this.#listed ??= [...this.#vms.values()].filter(this.#isListed).reverse();
    return this.#listed;
  }

  /** Replaces all VMs. @param vms newest registration first, as the registry lists them */
  replace(vms: readonly VmWithLiveness[]): void {
    this.#vms.clear();
    for (const vm of vms.toReversed()) this.#vms.set(vm.id, vm);
    this.#listed = undefined;
  }

  /**
   * Applies an event.
   * @param now milliseconds of any clock that does not go back
   * @returns true if the list has changed in more than the time of a heartbeat
   */
  apply(event: StreamEvent, now: number): boolean {
    if (event.type === 'heartbeat') {
      const known = this.#vms.get(event.id);
      if (!known) return false;
      const wasSilent = known.stale || known.suspect === true;
      const vm = { ...known, lastSeen: event.lastSeen, stale: false, suspect: false };
      if (this.#isListed(vm)) this.#countHeartbeat(now);
      this.#update(vm);
      return wasSilent;
    }
    if (!('vm' in event)) return false;
    const known = this.#vms.get(event.vm.id);
    const { stale = false, suspect = false, health } = known ?? {};
    const vm = { ...event.vm, stale, suspect, ...(health && { health }) };
    switch (event.type) {
      case 'deregistered':
        this.#vms.delete(vm.id);
        this.#listed = undefined;
        break;
      case 'registered':
        // A new registration is the newest, also of an id that was registered before.
        if (known && known.registeredAt !== vm.registeredAt) this.#vms.delete(vm.id);
        this.#update({ ...vm, stale: false, suspect: false });
        break;
      case 'status':
        // A change of the status to running is a sign of life.
        this.#update(vm.status === 'running' ? { ...vm, stale: false, suspect: false } : vm);
        break;
      case 'stale':
      case 'suspect':
        this.#update({ ...vm, stale: event.type === 'stale', suspect: event.type === 'suspect' });
        break;
      case 'revived':
        this.#update({ ...vm, stale: false, suspect: false });
        break;
      default:
        this.#update(vm);
    }
    return true;
  }

  /** Heartbeats per second of the VMs in the list, averaged over at most {@link RATE_WINDOW}. */
  heartbeatRate(now: number): number {
    const second = Math.floor(now / 1000);
    let count = 0;
    for (const [at, heartbeats] of this.#heartbeats) {
      if (at <= second - RATE_WINDOW) this.#heartbeats.delete(at);
      else count += heartbeats;
    }
    const elapsed = this.#since === undefined ? 0 : (now - this.#since) / 1000;
    return count / Math.min(Math.max(elapsed, 1), RATE_WINDOW);
  }

  /** Starts to measure the rate of heartbeats anew, because none arrived during an outage. */
  restartRate(now: number): void {
    this.#heartbeats.clear();
    this.#since = now;
  }

  #countHeartbeat(now: number): void {
    this.#since ??= now;
    const second = Math.floor(now / 1000);
    this.#heartbeats.set(second, (this.#heartbeats.get(second) ?? 0) + 1);
  }

  #update(vm: VmWithLiveness): void {
    this.#vms.set(vm.id, vm);
    this.#listed = undefined;
  }
}
