/**
 * The VMs as readers see them: the index, the leases, and all that is known about a VM besides its entry. A committed change
 * becomes visible here, whether this replica has committed it or another one.
 */
import type { ChangeType } from '../../src/protocol/events.ts';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Clock } from '../clock.ts';
import type { Contents, JournalNote } from '../store/store.ts';
import { ConflictLog } from './conflict-log.ts';
import { EventLog } from './events.ts';
import { HealthReports } from './health.ts';
import { HeartbeatBuffer } from './heartbeat-buffer.ts';
import { HistoryClaims } from './history-claims.ts';
import { Identities } from './identity.ts';
import { isoTime } from './iso-time.ts';
import type { LeaseTerms } from './lease-terms.ts';
import { LivenessTracker } from './liveness-tracker.ts';
import type { RegistryObserver, RegistryOptions } from './options.ts';
import type { Positions } from './positions.ts';
import { signOfLifeAt } from './signs-of-life.ts';
import { wallTimes } from './stored-times.ts';
import { VmIndex } from './vm-index.ts';
import type { VmRecord } from './vm-record.ts';
import type { VmDecision } from './writes.ts';

/** The journal's part of a change to a VM. */
export type VmNote = JournalNote & { type: ChangeType };

export class Fleet {
  readonly clock: Clock;
  readonly positions: Positions;
  readonly index: VmIndex;
  readonly liveness: LivenessTracker;
  readonly terms: LeaseTerms;
  readonly events: EventLog;
  readonly health: HealthReports;
  readonly conflicts: ConflictLog;
  readonly identities: Identities;
  readonly historyClaims: HistoryClaims;
  /** Heartbeats and records that are not durable yet. */
  readonly unsaved: HeartbeatBuffer;

  constructor(options: RegistryOptions, contents: Contents<VmRecord>, positions: Positions) {
    const { store, clock, eventLog, observer } = options;
    this.clock = clock;
    this.positions = positions;
    this.index = new VmIndex(() => `${positions.current} ${clock.now()}`);
    const inOrder = contents.vms.toSorted((a, b) => a.version.created - b.version.created);
    for (const entry of inOrder) this.index.put(entry);
    this.unsaved = new HeartbeatBuffer(store);
    const { records } = this.unsaved;
    const identityObserver: RegistryObserver = {
      conflict: (conflict) => {
        observer?.conflict?.(conflict);
        this.#publishConflict(conflict);
      },
    };
    const registrationOf = (id: string) => this.index.registrationOf(id);
    const times = store.replication && wallTimes(clock);
    this.conflicts = new ConflictLog(contents, registrationOf, records, identityObserver, times);
    this.identities = new Identities(contents, registrationOf, records, this.conflicts, times);
    this.historyClaims = new HistoryClaims(contents, positions, records, observer);
    this.events = new EventLog(contents.revision, eventLog);
    const changed = (entry: VmRecord) => this.index.invalidate(entry);
    this.health = new HealthReports((entry) => {
      changed(entry);
      this.events.discoverable(entry);
    });
    this.liveness = new LivenessTracker(options, this.events, this.unsaved, changed);
    this.terms = this.liveness.terms;
    if (store.replication) for (const entry of inOrder) entry.touch(signOfLifeAt(clock, entry.seen.lastSeen));
    this.liveness.load(contents.vms, contents.records);
  }

  /** As {@link LivenessTracker.horizon}. */
  horizon(): number {
    return this.liveness.horizon(this.positions.latest);
  }

  /** Publishes a conflict, like a liveness event, with the position of the change before it. */
  #publishConflict(conflict: Conflict): void {
    this.events.add('conflict', this.index.require(conflict.id), {
      position: this.positions.latest,
      at: this.clock.now(),
      conflict,
    });
  }

  /** Makes a committed change visible. @returns notifies subscribers */
  apply(
    { id, before, after }: VmDecision,
    { type, at, by, changes }: VmNote,
    position: Position,
    isOwn = true,
  ): () => void {
    const visible = after ?? this.index.require(id);
    const isRevived = after !== undefined && this.#show(after);
    if (!after) this.hide(visible);
    else if (before && before.role !== after.role) {
      // Another replica has committed the identity with the change.
      if (isOwn) this.identities.move(after, isoTime(at));
      // A reader of the new role must not see what the VM reported in the other one.
      this.health.forget(id);
    }
    // The event for a VM that is added or removed already contains the complete entry.
    const hasChanges = type === 'updated' || type === 'status';
    return () => {
      this.events.add(type, visible, { position, at, by, ...(hasChanges ? { changes, previous: before } : {}) });
      // `revived` follows the change, because it has the position of the change: a client must receive that position first.
      if (isRevived) this.liveness.notifyRevived(visible, position);
    };
  }

  /** Makes a committed entry visible. @returns true if the change ended the silence of a running VM */
  #show(entry: VmRecord): boolean {
    const before = this.index.get(entry.id);
    this.index.put(entry);
    this.health.trim(entry);
    if (before) this.unsaved.delete(before);
    if (before && before.heardAt > entry.heardAt) {
      // A heartbeat arrived while the change was being committed. Keep it and save it again, because the change has written an
      // older sign of life to the disk.
      entry.touch(before.seen);
      this.unsaved.add(entry);
    }
    return this.liveness.replace(before, entry);
  }

  /** Removes a VM, and all that is known about it. */
  hide(entry: VmRecord): void {
    this.index.remove(entry);
    this.unsaved.delete(entry);
    this.health.forget(entry.id);
    this.identities.forget(entry.id);
    this.historyClaims.forget(entry.id);
    this.liveness.forget(entry);
  }
}
