/** A store without a disk, for tests of the registry. */
import { VmRecord } from '../../daemon/registry/vm-record.ts';
import type {
  Change,
  Contents,
  LastChange,
  RecordChange,
  Store,
  StoredHeartbeat,
  StoredRecord,
  StoredVm,
} from '../../daemon/store/store.ts';
import type { ChangeType, HistoryItem } from '../../src/protocol/events.ts';
import { formatPosition, type Position } from '../../src/protocol/position.ts';

export class MemoryStore implements Store {
  readonly vms = new Map<string, StoredVm>();
  readonly records = new Map<string, StoredRecord>();
  /** Oldest change first. */
  readonly journal: { id: string; item: HistoryItem }[] = [];
  /** Positions of the changes, oldest first. */
  readonly positions: Position[] = [{ revision: 0, tag: '0'.repeat(16) }];
  listened = 0;
  readonly registryId = 'memory';
  /** If set, commits fail with it. */
  failure: Error | undefined;

  async commit(change: Change): Promise<void> {
    await this.commitAll([change]);
  }

  async commitAll(changes: readonly Change[]): Promise<void> {
    await Promise.resolve();
    if (this.failure) throw this.failure;
    for (const change of changes) this.#write(change);
  }

  #write(change: Change): void {
    const { revision, tag, previousTag, note } = change;
    if (previousTag !== this.positions.at(-1)!.tag) throw new Error('the change does not follow the last one');
    if (change.kind === 'put') {
      this.vms.set(change.vm.id, { ...change.vm });
      this.listened = Math.max(this.listened, change.vm.heardAt);
    } else if (change.kind === 'remove') this.vms.delete(change.id);
    this.positions.push({ revision, tag });
    this.#save(change.records ?? []);
    if (change.kind === 'token') return;
    const { at, type, ...rest } = note;
    const id = change.kind === 'put' ? change.vm.id : change.id;
    const position = formatPosition({ revision, tag });
    const item = { revision, position, at: new Date(at).toISOString(), type: type as ChangeType, ...rest };
    this.journal.push({ id, item });
  }

  /** The position of a revision, as the wire has it. */
  positionAt(revision: number): string {
    return formatPosition(this.positions.find((position) => position.revision === revision)!);
  }

  get revision(): number {
    return this.positions.at(-1)!.revision;
  }

  async history(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): Promise<HistoryItem[]> {
    return this.journal
      .filter((line) => line.id === id && line.item.revision < before)
      .reverse()
      .slice(0, limit)
      .map(({ item }) => item);
  }

  async lastChanges(after: number, until: number): Promise<LastChange[] | undefined> {
    const last = new Map<string, LastChange>();
    for (const { id, item } of this.journal) {
      const { revision, at, type, by, changes } = item;
      if (revision <= after || revision > until) continue;
      const { tag } = this.positions.find((position) => position.revision === revision)!;
      const texts = Object.entries(changes).filter(([, [before]]) => typeof before === 'string');
      const removed = type === 'deregistered' ? texts.map(([field, [before]]) => [field, before as string]) : [];
      last.delete(id);
      last.set(id, { revision, tag, id, type, at: Date.parse(at), by, removed: Object.fromEntries(removed) });
    }
    return [...last.values()];
  }

  async backup(): Promise<void> {
    throw new Error('a memory store has no file to copy');
  }

  async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records: readonly RecordChange[] = [],
  ): Promise<void> {
    this.#save(records);
    for (const heartbeat of heartbeats) Object.assign(this.vms.get(heartbeat.id) ?? {}, heartbeat);
    this.listened = listened;
  }

  #save(records: readonly RecordChange[]): void {
    for (const { kind, key, body } of records) {
      if (body === undefined) this.records.delete(`${kind} ${key}`);
      else this.records.set(`${kind} ${key}`, { kind, key, body });
    }
  }

  async close(): Promise<void> {}

  contents(): Contents<VmRecord> {
    const vms = [...this.vms.values()].sort((a, b) => a.created - b.created);
    return {
      vms: vms.map(VmRecord.fromStored),
      revision: this.revision,
      positions: [...this.positions],
      records: [...this.records.values()],
      listened: this.listened,
      registryId: this.registryId,
    };
  }
}
