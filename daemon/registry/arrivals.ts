/** Makes visible what other replicas have committed and received: changes to VMs, records, and signs of life. */
import type { ChangeType } from '../../src/protocol/events.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Arrival, Follower, RecordChange, StoredVm } from '../store/store.ts';
import type { Fleet, VmNote } from './fleet.ts';
import type { RegistryOptions } from './options.ts';
import { diff } from './preconditions.ts';
import type { SharedChanges } from './shared-changes.ts';
import { isLater, laterSign, signOfLifeAt } from './signs-of-life.ts';
import { wallTimes } from './stored-times.ts';
import { VmRecord } from './vm-record.ts';

export class Arrivals implements Follower {
  readonly #fleet: Fleet;
  readonly #changes: SharedChanges;
  readonly #onTokenRecord: RegistryOptions['onTokenRecord'];
  /** States of VMs before changes of this replica that are visible, but have not arrived yet. */
  readonly #earlier = new Map<string, VmRecord>();
  readonly toListening: (wall: number) => number;

  /** @param changes of this replica, which arrive too */
  constructor(fleet: Fleet, changes: SharedChanges, onTokenRecord: RegistryOptions['onTokenRecord']) {
    this.#fleet = fleet;
    this.#changes = changes;
    this.#onTokenRecord = onTokenRecord;
    this.toListening = wallTimes(fleet.clock).fromStored;
  }

  arrived(arrival: Arrival): void {
    this.#changes.arrived(arrival, () => this.#applyArrival(arrival));
    if (arrival.own && arrival.id !== undefined) this.#earlier.delete(arrival.id);
  }

  identityRequested(id: string): RecordChange | undefined {
    return this.#fleet.identities.recordOf(id);
  }

  currencyChanged(isCurrent: boolean): void {
    this.#fleet.liveness.currencyChanged(isCurrent);
  }

  /** Makes a change of another replica visible. @returns notifies subscribers */
  #applyArrival({ id, vm, note, position }: Arrival): () => void {
    if (id === undefined) return noEvents;
    let before = this.#fleet.index.get(id);
    if (before && before.version.revision > position.revision) return this.#applyEarlier(id, vm, note, position);
    // A list contains a VM that has not changed since this replica has read it.
    if (before && before.version.revision === vm?.revision) return noEvents;
    if (!vm)
      return before ? this.#fleet.apply({ id, before, after: undefined }, noteOf(note), position, false) : noEvents;
    const after = VmRecord.fromStored(vm);
    if (before && note.type === 'registered') {
      // Its removal was not in the list.
      this.#fleet.hide(before);
      before = undefined;
    }
    after.touch(laterSign(this.#fleet.clock, before, after));
    const changes = diff(before?.vm, after.vm);
    return this.#fleet.apply({ id, before, after }, { ...noteOf(note), changes }, position, false);
  }

  /**
   * Handles a change of another replica that arrives after a later change of this replica to the same VM, which is visible
   * already. @returns notifies subscribers
   */
  #applyEarlier(id: string, vm: StoredVm | undefined, note: Arrival['note'], position: Position): () => void {
    const previous = this.#earlier.get(id);
    const entry = vm && VmRecord.fromStored(vm);
    if (entry) this.#earlier.set(id, entry);
    else this.#earlier.delete(id);
    const visible = entry ?? previous;
    if (!visible) return noEvents;
    const { type, at, by } = noteOf(note);
    const changes = type === 'updated' || type === 'status' ? diff(previous?.vm, entry?.vm) : undefined;
    return () => this.#fleet.events.add(type, visible, { position, at, by, ...(changes && { changes, previous }) });
  }

  recordsArrived(records: readonly RecordChange[]): void {
    for (const record of records) {
      if (record.kind === 'token' || record.kind === 'session') this.#onTokenRecord?.(record);
      else if (record.kind === 'identity') this.#fleet.identities.recordArrived(record);
      else if (record.kind === 'conflict') this.#fleet.conflicts.recordArrived(record);
      else if (record.kind === 'other-registry') this.#fleet.historyClaims.recordArrived(record);
    }
  }

  /** Records a heartbeat that another replica has received. */
  heard(id: string, lastSeen: number): void {
    const { index, liveness, events, clock } = this.#fleet;
    const entry = index.get(id);
    if (!entry) return;
    const seen = signOfLifeAt(clock, lastSeen);
    if (!isLater(seen, entry)) return;
    // Call this first, because its sweep can change the lease.
    const horizon = this.#fleet.horizon();
    const isLive = entry.status === 'running' && !entry.isSuspect && entry.leaseFrom >= horizon;
    // A VM that has been silent for longer than a lease since then remains stale or suspect.
    if (!isLive && seen.heardAt < horizon) return;
    const wasDoubtful = this.#fleet.terms.isDoubtful(entry, seen.lastSeen);
    entry.touch(seen);
    // Cached lists expect a sign of life to make a VM certain. This one may be from before a gap.
    if (seen.heardAt <= (clock.lastGap()?.certainFrom ?? Number.NEGATIVE_INFINITY)) index.invalidate(entry);
    if (liveness.renew(entry) && entry.status === 'running')
      liveness.notifyRevived(entry, this.#fleet.positions.latest);
    if (wasDoubtful) events.discoverable(entry);
    events.heartbeat(entry);
  }
}

/** The note of a change of another replica; {@link Arrivals} computes the changed fields. */
function noteOf(note: Arrival['note']): VmNote {
  return { ...note, type: note.type as ChangeType, changes: {} };
}

/** Publishes nothing. */
function noEvents(): void {}
