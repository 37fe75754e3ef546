/** Passes the changes of the view to the registry: transaction by transaction, or as the difference to a later list. */
import type { Arrival, Change, Follower, RecordChange, StoredRecord, StoredVm } from '../store.ts';
import { bareTag } from './change-transaction.ts';
import { decodeValue, type EtcdKeys } from './etcd-keys.ts';
import { type Note, type NoteHead, type NoteRing, type Replicas, readNote, readRecord, readVm } from './etcd-view.ts';
import type { HeartbeatExchange } from './heartbeat-exchange.ts';
import type { IdentityExchange } from './identity-exchange.ts';
import type { Batch, WatchEvent } from './informer.ts';
import type { OwnWrites } from './own-writes.ts';
import type { RecordWriter } from './record-writer.ts';

/** The author of a change whose note is no longer in the journal. */
const UNKNOWN_AUTHOR = 'unknown';

export interface ViewChangesOptions {
  replica: string;
  keys: EtcdKeys;
  writes: OwnWrites;
  /** Changes of this replica that have not arrived, by the id of their transaction, or the key of a removal without a note. */
  sent: Map<string, Change>;
  notes: NoteRing;
  replicas: Replicas;
  records: RecordWriter;
  heartbeats: HeartbeatExchange;
  identities: IdentityExchange;
}

export class ViewChanges {
  readonly #replica: string;
  readonly #keys: EtcdKeys;
  readonly #writes: OwnWrites;
  readonly #sent: Map<string, Change>;
  readonly #notes: NoteRing;
  readonly #replicas: Replicas;
  readonly #records: RecordWriter;
  readonly #heartbeats: HeartbeatExchange;
  readonly #identities: IdentityExchange;
  readonly #follower: Follower;

  constructor(options: ViewChangesOptions, follower: Follower) {
    this.#replica = options.replica;
    this.#keys = options.keys;
    this.#writes = options.writes;
    this.#sent = options.sent;
    this.#notes = options.notes;
    this.#replicas = options.replicas;
    this.#records = options.records;
    this.#heartbeats = options.heartbeats;
    this.#identities = options.identities;
    this.#follower = follower;
  }

  apply({ events, source, revision }: Batch): void {
    if (source === 'list') {
      this.#applyDifference(events, revision);
      return;
    }
    let group: WatchEvent[] = [];
    for (const event of events) {
      if (group.length > 0 && group[0]!.revision !== event.revision) {
        this.#applyTransaction(group);
        group = [];
      }
      group.push(event);
    }
    if (group.length > 0) this.#applyTransaction(group);
  }

  /** Applies the events of one transaction. */
  #applyTransaction(events: readonly WatchEvent[]): void {
    const { revision } = events[0]!;
    let vm: { id: string; stored: StoredVm | undefined } | undefined;
    let write: string | undefined;
    let note: NoteHead | undefined;
    const late: Note[] = [];
    const records: RecordChange[] = [];
    const answered: string[] = [];
    for (const event of events) {
      const { key, kv } = event;
      const parsed = this.#keys.parse(key);
      if (parsed.type === 'vm') vm = { id: parsed.id, stored: kv && readVm(parsed.id, kv) };
      else if (parsed.type === 'journal') {
        if (kv) {
          const added = readNote(kv);
          this.#notes.add(added);
          write = added.w;
          if (added.revision === revision) note = added;
          else late.push(added);
        } else this.#notes.delete(key);
      } else if (parsed.type === 'record') records.push(this.#recordOf(parsed.record, event));
      else if (parsed.type === 'replica') {
        if (kv) this.#replicas.put(key, kv.value);
        else this.#replicas.delete(parsed.replica);
      } else if (parsed.type === 'flush' && kv) write = decodeValue<{ w: string }>(kv.value).head.w;
      else if (parsed.type === 'request') {
        if (!kv) answered.push(key);
        else if (parsed.replica === this.#replica) this.#answer(parsed.id, event);
      }
    }
    if (vm) {
      if (vm.stored) this.#heartbeats.addVm(vm.id, vm.stored.created);
      else this.#heartbeats.deleteVm(vm.id);
    }
    if (note || vm) this.#arrive({ revision, vm, note });
    if (late.length > 0) this.#notes.sort();
    // Removals that have arrived without a note: a replica that has started since then learns their positions.
    for (const each of late) this.#arrive({ revision: each.revision, vm: undefined, note: { ...each, id: '' } });
    if (records.length > 0 && !(write !== undefined && this.#writes.isOwn(write)))
      this.#follower.recordsArrived(records);
    if (write !== undefined) this.#writes.arrived(write);
    for (const key of answered) this.#identities.answered(key);
  }

  /** Another replica has received a heartbeat of a VM whose identity this one knows. */
  #answer(id: string, { key, kv }: WatchEvent): void {
    const asker = decodeValue(kv!.value).text;
    void this.#identities.answer(id, asker, this.#follower.identityRequested(id), key);
  }

  #arrive({
    revision,
    vm,
    note,
  }: {
    revision: number;
    vm: { id: string; stored: StoredVm | undefined } | undefined;
    note: NoteHead | undefined;
  }): void {
    const name = note?.w ?? this.#keys.vm(vm!.id);
    const own = this.#sent.get(name);
    this.#sent.delete(name);
    if (!note && !vm?.stored) this.#notes.addMissing(revision);
    const tag = note?.tag ?? vm?.stored?.tag ?? bareTag(name, revision);
    const id = note ? note.id || undefined : vm!.id;
    const type = note?.type ?? (vm?.stored ? 'updated' : 'deregistered');
    const arrival: Arrival = {
      position: { revision, tag },
      own,
      id,
      vm: vm?.stored,
      note: { type, at: note?.at ?? Date.now(), by: note?.by ?? UNKNOWN_AUTHOR },
    };
    this.#follower.arrived(arrival);
  }

  #recordOf(record: Pick<StoredRecord, 'kind' | 'key'>, { key, kv, revision }: WatchEvent): RecordChange {
    this.#records.seen(key, revision);
    const stored = kv && readRecord(record, kv);
    if (record.kind === 'identity' && !(stored && this.#writes.isOwn(stored.write)))
      this.#identities.arrived(record.key, stored?.write);
    return { ...record, body: stored?.body };
  }

  /** Applies the difference to a list, after changes were compacted. Intermediate states of a VM are lost. */
  #applyDifference(events: readonly WatchEvent[], revision: number): void {
    const vms = new Map<string, StoredVm | undefined>();
    const notes: (NoteHead & { revision: number })[] = [];
    const records: RecordChange[] = [];
    for (const event of events) {
      const { key, kv } = event;
      const parsed = this.#keys.parse(key);
      if (parsed.type === 'vm') vms.set(parsed.id, kv && readVm(parsed.id, kv));
      else if (parsed.type === 'journal') {
        if (!kv) this.#notes.delete(key);
        else {
          const note = readNote(kv);
          notes.push(note);
          this.#notes.add(note);
        }
      } else if (parsed.type === 'record') records.push(this.#recordOf(parsed.record, event));
      else if (parsed.type === 'replica') {
        if (kv) this.#replicas.put(key, kv.value);
        else this.#replicas.delete(parsed.replica);
      }
    }
    this.#notes.sort();
    notes.sort((a, b) => a.revision - b.revision);
    const last = new Map(notes.map((note) => [note.id, note]));
    // VMs whose notes are no longer in the journal have changed before those whose notes are.
    const older = [...vms].filter(([id]) => !last.has(id));
    older.sort(([, a], [, b]) => (a?.revision ?? 0) - (b?.revision ?? 0));
    for (const [id, stored] of older) {
      if (stored) this.#heartbeats.addVm(id, stored.created);
      else this.#heartbeats.deleteVm(id);
      const at = Math.min(stored?.revision ?? revision, notes[0]?.revision ?? revision);
      this.#arrive({ revision: at, vm: { id, stored }, note: undefined });
    }
    for (const note of notes) {
      const isLast = last.get(note.id) === note && vms.has(note.id);
      const stored = vms.get(note.id);
      if (isLast && stored) this.#heartbeats.addVm(note.id, stored.created);
      if (isLast && !stored) this.#heartbeats.deleteVm(note.id);
      const vm = isLast ? { id: note.id, stored } : undefined;
      this.#arrive({ revision: note.revision, vm, note: isLast ? note : { ...note, id: '' } });
    }
    if (records.length > 0) this.#follower.recordsArrived(records);
  }
}
