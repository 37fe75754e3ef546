/** A store without a disk, for tests of the registry. */
import { VmRecord } from '../../daemon/registry/vm-record.ts';
import type {
  Change,
  Contents,
  JournalItem,
  LastChange,
  RecordChange,
  Replication,
  Store,
  StoredHeartbeat,
  StoredRecord,
  StoredVm,
} from '../../daemon/store/store.ts';
import type { ChangeType } from '../../src/protocol/events.ts';
import { formatPosition, type Position } from '../../src/protocol/position.ts';

export class MemoryStore implements Store {
  readonly vms = new Map<string, StoredVm>();
  readonly records = new Map<string, StoredRecord>();
  /** Oldest change first. */
  readonly journal: { id: string; item: JournalItem }[] = [];
  /** Positions of the changes, oldest first. */
  readonly positions: Position[] = [{ revision: 0, tag: '0'.repeat(16) }];
  listened = 0;
  readonly registryId = 'memory';
  readonly replication: Replication | undefined;
  /** If set, commits fail with it. */
  failure: Error | undefined;
  /** If set, reads fail with it. */
  readFailure: Error | undefined;

  async commit(change: Change): Promise<Position> {
    await this.commitAll([change]);
    return change;
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
    this.saveRecords(change.records ?? []);
    if (change.kind === 'token') return;
    const { at, type, ...rest } = note;
    const id = change.kind === 'put' ? change.vm.id : change.id;
    const position = formatPosition({ revision, tag });
    const item = { revision, position, at: new Date(at).toISOString(), type: type as ChangeType, ...rest };
    this.journal.push({ id, item });
  }

  /** The position of the n-th change, as the wire has it; with 0, that of the empty registry. */
  positionAt(change: number): string {
    return formatPosition(this.positions[change]!);
  }

  /** The revision of the n-th change; with 0, that of the empty registry. */
  revisionAt(change: number): number {
    return this.positions[change]!.revision;
  }

  /** The number of the change with a revision or a position: 1 for the first one, -1 if there is none. */
  changeOf(at: number | string): number {
    return this.positions.findIndex((position) => position.revision === at || formatPosition(position) === at);
  }

  /** The number of changes so far. */
  get changes(): number {
    return this.positions.length - 1;
  }

  get revision(): number {
    return this.positions.at(-1)!.revision;
  }

  async read(): Promise<void> {
    if (this.readFailure) throw this.readFailure;
  }

  async tryWrite(): Promise<void> {
    if (this.failure) throw this.failure;
  }

  async size(): Promise<undefined> {}

  async history(id: string, limit: number, before = Number.MAX_SAFE_INTEGER): Promise<JournalItem[]> {
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
    this.saveRecords(records);
    for (const heartbeat of heartbeats) Object.assign(this.vms.get(heartbeat.id) ?? {}, heartbeat);
    this.listened = listened;
  }

  protected saveRecords(records: readonly RecordChange[]): void {
    for (const { kind, key, body } of records) {
      if (body === undefined) this.records.delete(`${kind} ${key}`);
      else this.records.set(`${kind} ${key}`, { kind, key, body });
    }
  }

  async close(): Promise<void> {}

  /** Opens it again, as a restart does. @returns the store to use from now on */
  async reopen(): Promise<MemoryStore> {
    return this;
  }

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
