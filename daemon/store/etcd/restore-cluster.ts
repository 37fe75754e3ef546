/**
 * Restores a backup into etcd, under a prefix without any keys. The registry there begins a new history, because the revisions
 * of etcd differ from those of the backup. Revisions of registrations and of the journal become negative numbers, so that the
 * order of lists and histories stays the same, and later changes come after them.
 */
import { setTimeout } from 'node:timers/promises';
import { VregError } from '../../../src/protocol/errors.ts';
import { tagOf } from '../../../src/protocol/position.ts';
import { kernelRandomHex } from '../../process/random.ts';
import { type BackupContents, type Conversion, convertRecord } from '../moving.ts';
import type { StoredVm } from '../store.ts';
import { backoff } from './backoff.ts';
import { EtcdClient } from './etcd-client.ts';
import { EtcdError, toEtcdOpenError } from './etcd-error.ts';
import { EtcdKeys, encodeValue, LAYOUT_VERSION } from './etcd-keys.ts';
import type { EtcdTarget } from './etcd-url.ts';
import type { MetaHead, NoteHead, VmHead } from './etcd-view.ts';
import { LAST_FLUSH } from './heartbeat-exchange.ts';
import { type Compare, type Op, prefixEnd } from './messages.ts';

/** Limits of a transaction: etcd accepts 128 operations and 1.5 MB by default. */
const MAX_OPS = 100;
const MAX_BYTES = 700_000;
/** Attempts per transaction. Each writes the same values, so an unknown outcome does not matter. */
const ATTEMPTS = 10;
/** Milliseconds of the longest pause between two attempts, with which ten take 3 to 7 s: longer than an election. */
const MAX_PAUSE = 1000;

type Put = Extract<Op, { type: 'put' }>;

/**
 * @param url of the store, for errors
 * @throws VregError CONFLICT (the prefix has keys), STORE_UNUSABLE
 */
export async function restoreIntoEtcd(target: EtcdTarget, contents: BackupContents, url: string): Promise<void> {
  const client = await EtcdClient.open(target);
  try {
    const keys = new EtcdKeys(target.prefix);
    await client.checkServer(keys.meta);
    await new ClusterRestore(client, target, keys, url).run(contents);
  } catch (error) {
    throw error instanceof EtcdError ? toEtcdOpenError(error) : error;
  } finally {
    client.close();
  }
}

class ClusterRestore {
  readonly #client: EtcdClient;
  readonly #target: EtcdTarget;
  readonly #keys: EtcdKeys;
  readonly #url: string;
  readonly #replica = `restore-${kernelRandomHex(8)}`;
  #writes = 0;

  constructor(client: EtcdClient, target: EtcdTarget, keys: EtcdKeys, url: string) {
    this.#client = client;
    this.#target = target;
    this.#keys = keys;
    this.#url = url;
  }

  async run(contents: BackupContents): Promise<void> {
    const { prefix } = this.#target;
    const { count } = await this.#client.range({ key: prefix, rangeEnd: prefixEnd(prefix), countOnly: true });
    if (count > 0) throw this.#notEmpty();
    const { meta } = this.#keys;
    const head: MetaHead = {
      schema: LAYOUT_VERSION,
      registryId: contents.registryId,
      tag: tagOf(contents.registryId, kernelRandomHex(16)),
      moved: -movedRevision(0, contents),
    };
    // A replica that starts before the restore is complete refuses this mark. Its id detects another restore.
    const mark = encodeValue({ ...head, restoring: this.#replica } satisfies MetaHead, '');
    await this.#write([{ key: meta, createRevision: 0 }], [{ type: 'put', key: meta, value: mark }], mark);
    const compares = [{ key: meta, value: mark }];
    let ops: Put[] = [];
    let bytes = 0;
    for (const op of this.#puts(contents)) {
      if (ops.length >= MAX_OPS || (ops.length > 0 && bytes + op.value.length > MAX_BYTES)) {
        await this.#write(compares, ops, mark);
        ops = [];
        bytes = 0;
      }
      ops.push(op);
      bytes += op.value.length;
    }
    const complete = encodeValue(head, '');
    await this.#write(compares, [...ops, { type: 'put', key: meta, value: complete }], complete);
  }

  /** @param meta value of the key after the transaction, which proves an earlier attempt with an unknown outcome */
  async #write(compares: Compare[], ops: Op[], meta: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        const { succeeded } = await this.#client.txn(compares, ops);
        if (succeeded) return;
        const [kv] = (await this.#client.range({ key: this.#keys.meta })).kvs;
        if (kv?.value.toString() === meta) return;
        throw this.#notEmpty();
      } catch (error) {
        const isRepeatable = error instanceof EtcdError && ['unknown', 'unavailable', 'busy'].includes(error.kind);
        if (!isRepeatable || attempt === ATTEMPTS) throw error;
        await setTimeout(backoff(attempt, MAX_PAUSE, Math.random));
      }
    }
  }

  #notEmpty(): VregError {
    const { prefix } = this.#target;
    return new VregError('CONFLICT', `${this.#url} is not empty: etcd has keys under ${prefix}`, {
      field: 'store',
      hint: `nothing was changed; pass another prefix, or stop its replicas and delete it (etcdctl del --prefix ${prefix})`,
    });
  }

  *#puts(contents: BackupContents): Generator<Put> {
    const { vms, records, history, listened } = contents;
    const moved = (old: number) => movedRevision(old, contents);
    // The first replica continues all leases as if no time had passed since this time of the wall clock.
    const endedAt = Math.max(0, ...vms.map(({ lastSeen, heardAt }) => lastSeen + Math.max(0, listened - heardAt)));
    const conversion: Conversion = { revision: moved, time: (listening) => endedAt - (listened - listening) };
    for (const vm of vms) yield this.#putVm(vm, moved);
    for (const record of records) {
      // The time that is left to a suspect VM is on the listening clock of the backup.
      if (record.kind === 'lease') continue;
      const key = this.#keys.record(record);
      yield { type: 'put', key, value: encodeValue({ w: this.#newWrite() }, convertRecord(record, conversion).body) };
    }
    for (const [id, items] of history) {
      for (const { revision: old, at, type, by, changes } of items) {
        const w = this.#newWrite();
        const head: NoteHead = { w, id, type, at: Date.parse(at), by, tag: '', moved: moved(old) };
        yield { type: 'put', key: this.#keys.journal(id, w), value: encodeValue(head, JSON.stringify(changes)) };
      }
    }
    yield { type: 'put', key: `${this.#keys.heartbeats}${this.#replica}/${LAST_FLUSH}`, value: String(endedAt) };
  }

  #putVm({ id, created, tag, lastSeen, body }: StoredVm, moved: (old: number) => number): Put {
    const head: VmHead = {
      w: this.#newWrite(),
      created: moved(created),
      tag: tagOf(this.#replica, tag),
      seen: lastSeen,
    };
    return { type: 'put', key: this.#keys.vm(id), value: encodeValue(head, body) };
  }

  #newWrite(): string {
    this.#writes++;
    return `${this.#replica}.${this.#writes}`;
  }
}

/** Negative, so that what was moved comes before all later changes. @param old revision in the backup */
function movedRevision(old: number, { revision }: BackupContents): number {
  return old - revision - 1;
}
