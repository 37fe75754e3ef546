/**
 * Writes the registry in etcd to a backup, which is a database of the embedded store. All keys are read at one revision. The
 * registry in the backup begins a new history, because a restore, which assigns other revisions, must not look like this one.
 */
import { VregError } from '../../../src/protocol/errors.ts';
import { tagOf } from '../../../src/protocol/position.ts';
import { kernelRandomHex } from '../../process/random.ts';
import { writeBackup } from '../backup-writer.ts';
import type { Filling } from '../database.ts';
import type { StoredNote } from '../journal.ts';
import { type Conversion, convertRecord } from '../moving.ts';
import type { StoredRecord, StoredVm } from '../store.ts';
import type { EtcdClient } from './etcd-client.ts';
import { EtcdError, toEtcdRuntimeError } from './etcd-error.ts';
import { decodeValue, type EtcdKeys } from './etcd-keys.ts';
import { type MetaHead, type NoteHead, readRecord, readVm, revisionOf } from './etcd-view.ts';
import { LAST_FLUSH } from './heartbeat-exchange.ts';
import { decodeShard, hashOfVm } from './heartbeat-shards.ts';
import type { KeyValue } from './messages.ts';
import { pagesOf } from './pages.ts';

/** Keys per page. Decoding them, and copying them to the worker, takes about 10 ms, in which no request is served. */
const PAGE = 1000;
/** Attempts to read all keys before etcd compacts their revision. */
const ATTEMPTS = 3;

/**
 * @param toListening converts a time of the wall clock to listening time, both in milliseconds
 * @param signal ends the backup before the next page
 * @throws VregError STORE_FULL, STORE_FAILED, BUSY (etcd compacts faster than this reads), INTERNAL; the abort reason of the signal
 */
export async function backupCluster(
  client: EtcdClient,
  keys: EtcdKeys,
  path: string,
  toListening: (wall: number) => number,
  signal?: AbortSignal,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await writeBackup(path, (fill) => new ClusterBackup(keys, toListening, fill).run(client, signal), signal);
      return;
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      if (error.kind !== 'compacted') throw toEtcdRuntimeError('be backed up', error);
      if (attempt < ATTEMPTS) continue;
      throw new VregError('BUSY', 'etcd has compacted the changes while the registry was read for a backup', {
        hint: 'raise --auto-compaction-retention of etcd (5m), then retry',
        retryAfter: 5,
        cause: error,
      });
    }
  }
}

/** @param reason why etcd cannot be read */
export function cannotBackUp(reason: string): VregError {
  return new VregError('STORE_FAILED', `the registry cannot be backed up: ${reason}`, {
    hint: 'check etcd (etcdctl endpoint health), then retry',
    retryAfter: 5,
  });
}

class ClusterBackup {
  readonly #keys: EtcdKeys;
  readonly #toListening: (wall: number) => number;
  readonly #fill: (part: Filling) => Promise<void>;
  /** Part of the tags, so that no client takes a restored registry for the one in etcd. */
  readonly #seed = kernelRandomHex(16);
  /** Last heartbeats in milliseconds since the epoch, by the hash of the registration. */
  readonly #heard = new Map<string, number>();
  readonly #notes: StoredNote[] = [];
  #meta: MetaHead | undefined;
  /** Added to all revisions, because those that were moved from another engine are negative. */
  #shift = 0;

  constructor(keys: EtcdKeys, toListening: (wall: number) => number, fill: (part: Filling) => Promise<void>) {
    this.#keys = keys;
    this.#toListening = toListening;
    this.#fill = fill;
  }

  async run(client: EtcdClient, signal?: AbortSignal): Promise<void> {
    let revision = 0;
    // In the order of the keys: heartbeats, journal, meta, records, VMs.
    for await (const { header, kvs } of pagesOf(client, this.#keys.prefix, PAGE)) {
      signal?.throwIfAborted();
      revision ||= header.revision;
      const vms: StoredVm[] = [];
      const records: StoredRecord[] = [];
      for (const kv of kvs) this.#read(kv, vms, records);
      if (vms.length + records.length > 0) await this.#fill({ vms, records });
    }
    if (!this.#meta) throw new VregError('STORE_FAILED', 'the registry was removed from etcd', { hint: 'restart it' });
    const notes = this.#notes.map((note) => ({ ...note, revision: note.revision + this.#shift }));
    const last = revision + this.#shift + 1;
    await this.#fill({
      notes: notes.sort((a, b) => a.revision - b.revision),
      end: {
        registryId: this.#meta.registryId,
        revision: last,
        tag: tagOf(this.#seed, String(last)),
        listened: this.#toListening(Date.now()),
      },
    });
  }

  #read(kv: KeyValue, vms: StoredVm[], records: StoredRecord[]): void {
    const { key, value } = kv;
    if (key.startsWith(this.#keys.heartbeats)) {
      if (!key.endsWith(`/${LAST_FLUSH}`)) this.#readHeartbeats(value);
      return;
    }
    const parsed = this.#keys.parse(key);
    if (parsed.type === 'meta') {
      this.#meta = decodeValue<MetaHead>(value).head;
      this.#shift = (this.#meta.moved ?? 0) + 1;
    } else if (parsed.type === 'journal') this.#notes.push(this.#noteOf(kv));
    else if (parsed.type === 'record') {
      const { kind, key: name, body } = readRecord(parsed.record, kv);
      records.push(convertRecord({ kind, key: name, body }, this.#conversion));
    } else if (parsed.type === 'vm') vms.push(this.#vmOf(parsed.id, kv));
  }

  #readHeartbeats(shard: Buffer): void {
    for (const { hash, lastSeen } of decodeShard(shard))
      if ((this.#heard.get(hash) ?? 0) < lastSeen) this.#heard.set(hash, lastSeen);
  }

  #noteOf({ value, modRevision }: KeyValue): StoredNote {
    const { head, text: changes } = decodeValue<NoteHead>(value);
    const { id, type, at, by, tag, moved } = head;
    const revision = revisionOf({ moved, revision: head.revision ?? modRevision });
    return { id, revision, tag: this.#tagOf(revision, tag), note: { type, at, by, changes } };
  }

  #vmOf(id: string, kv: KeyValue): StoredVm {
    const { created, revision, tag, body, lastSeen: changedAt } = readVm(id, kv);
    const lastSeen = Math.max(changedAt, this.#heard.get(hashOfVm(id, created)) ?? 0);
    const { revision: move } = this.#conversion;
    return {
      id,
      created: move(created),
      revision: move(revision),
      tag: this.#tagOf(revision, tag),
      body,
      lastSeen,
      heardAt: this.#toListening(lastSeen),
    };
  }

  readonly #conversion: Conversion = {
    revision: (created) => created + this.#shift,
    time: (wall) => this.#toListening(wall),
  };

  /** @param revision in etcd */
  #tagOf(revision: number, tag: string): string {
    return tagOf(this.#seed, String(revision), tag);
  }
}
