/**
 * The contents of the first list. If etcd was away or compacted its revision, the list was read again: keys that were removed
 * meanwhile are reported as deleted.
 */
import type { Silence } from '../../clock.ts';
import type { StoredRecord, StoredVm } from '../store.ts';
import { decodeValue, type EtcdKeys } from './etcd-keys.ts';
import {
  type MetaHead,
  type NoteRing,
  type Replicas,
  readNote,
  readRecord,
  readSilences,
  readVm,
} from './etcd-view.ts';
import type { Batch } from './informer.ts';

export class FirstList {
  meta: { head: MetaHead; revision: number } | undefined;
  silences: Silence[] = [];
  readonly vms = new Map<string, StoredVm & { write: string }>();
  /** By their keys in etcd. */
  readonly #records = new Map<string, StoredRecord & { write: string }>();

  get records(): (StoredRecord & { write: string })[] {
    return [...this.#records.values()];
  }

  add({ events }: Batch, keys: EtcdKeys, notes: NoteRing, replicas: Replicas): void {
    for (const { key, kv } of events) {
      const parsed = keys.parse(key);
      if (!kv) {
        if (parsed.type === 'meta') this.meta = undefined;
        else if (parsed.type === 'vm') this.vms.delete(parsed.id);
        else if (parsed.type === 'journal') notes.delete(key);
        else if (parsed.type === 'record') this.#records.delete(key);
        else if (parsed.type === 'replica') replicas.delete(parsed.replica);
      } else if (parsed.type === 'meta') {
        this.meta = { head: decodeValue<MetaHead>(kv.value).head, revision: kv.modRevision };
      } else if (parsed.type === 'silences') this.silences = readSilences(kv.value);
      else if (parsed.type === 'vm') this.vms.set(parsed.id, readVm(parsed.id, kv));
      else if (parsed.type === 'journal') notes.add(readNote(kv));
      else if (parsed.type === 'record') this.#records.set(key, readRecord(parsed.record, kv));
      else if (parsed.type === 'replica') replicas.put(key, kv.value);
    }
  }
}
