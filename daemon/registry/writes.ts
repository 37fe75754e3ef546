/** Data that is not durable yet: changes that wait for a group commit, and heartbeats and records that wait for the next save. */
import type { VregError } from '../../src/protocol/errors.ts';
import { type Position, tagOf } from '../../src/protocol/position.ts';
import type { Change, ForEach, JournalNote, RecordChange, Store, StoredHeartbeat, StoredVm } from '../store/store.ts';
import type { Positions } from './positions.ts';
import type { VmRecord } from './vm-record.ts';

/** Records that are committed in one transaction with a change to a VM, such as the VM's own token. */
export interface Attachment {
  records: readonly RecordChange[];
  /** As in {@link Change}. */
  requires?: Change['requires'];
  /** Called when the transaction is durable, right before the change becomes visible. */
  committed(position: Position): void;
  /** Called when the transaction has failed or was never started. */
  failed(): void;
}

/** A change to a VM: it is written, or removed if `after` is undefined. */
export interface VmDecision {
  id: string;
  before: VmRecord | undefined;
  after: VmRecord | undefined;
}

/** A change that passed validation. It gets its position when the store accepts it. */
export interface Decision {
  /** Undefined for a change of access tokens only. */
  vm?: VmDecision | undefined;
  note: JournalNote;
  records: readonly RecordChange[];
  /** As in {@link Change}. */
  requires?: Change['requires'];
  /**
   * Makes the change visible when it is durable, before {@link Changes.commit} resolves.
   * @returns publishes the events of the change; called in the order of revisions
   */
  apply(position: Position): () => void;
}

/** Another replica has changed the same VM or token first. Its change has arrived, so the request must be decided again. */
export class Superseded extends Error {}

/** Changes on their way to the store. */
export interface Changes {
  /** Revision of the next change; 0 if only the store knows it. */
  readonly nextRevision: number;
  /** Number of new VMs in pending changes. */
  readonly added: number;
  /** Sum of {@link VmRecord.weight} that pending changes add, or remove if negative. */
  readonly growth: number;
  /** The newest pending change to a VM; undefined if there is none. */
  of(id: string): { entry: VmRecord | undefined } | undefined;
  /**
   * Commits a change. Resolves when it is durable and applied.
   * @returns its position
   * @throws the store's errors, and Superseded
   */
  commit(decision: Decision): Promise<Position>;
  /**
   * Runs a method that changes a VM.
   * @throws VregError as the method, and BUSY if other replicas change the VM all the time
   */
  decide<T>(id: string, act: () => Promise<T>): Promise<T>;
  /**
   * Resolves when all changes before the call are visible.
   * @throws VregError BUSY, STORE_FAILED if those of other replicas do not arrive
   */
  settle(): Promise<void>;
  /**
   * Commits many changes. Call it when the earlier ones are {@link settle}d; no other change may be committed until it is done.
   * @returns the errors of changes that were not committed, by their index. Without replicas, all changes are one transaction
   * @throws the store's errors
   */
  commitAll(decisions: readonly Decision[], forEach: ForEach): Promise<ReadonlyMap<number, VregError | Superseded>>;
}

/**
 * Changes that are accepted but not yet durable. Later changes are validated against them, although readers cannot see them
 * yet. If the store fails to write one, all later ones fail too. This class assigns all revisions and tags.
 */
export class PendingChanges implements Changes {
  readonly #store: Store;
  readonly #positions: Positions;
  readonly #beforeNext: () => void;
  /** The newest pending change to each VM, by id. Without an entry, it is a removal. */
  readonly #decisions = new Map<string, { entry: VmRecord | undefined }>();
  /** Position of the last durable change. */
  #durable: Position;
  /** Position of the last change that the store has accepted. */
  #decided: Position;
  #added = 0;
  #growth = 0;
  /** The store's promise of the last commit. */
  #last: Promise<unknown> = Promise.resolve();
  /** Incremented when pending changes are discarded, so that a late failure does not discard newer ones. */
  #generation = 0;

  /**
   * @param beforeNext called before each new position is published, so that events at the previous position are published first
   */
  constructor(store: Store, positions: Positions, beforeNext: () => void) {
    this.#store = store;
    this.#positions = positions;
    this.#beforeNext = beforeNext;
    this.#durable = positions.latest;
    this.#decided = positions.latest;
  }

  get nextRevision(): number {
    return this.#decided.revision + 1;
  }

  get added(): number {
    return this.#added;
  }

  get growth(): number {
    return this.#growth;
  }

  of(id: string): { entry: VmRecord | undefined } | undefined {
    return this.#decisions.get(id);
  }

  async commit(request: Decision): Promise<Position> {
    const generation = this.#generation;
    const { vm, apply } = request;
    const { before, after } = vm ?? {};
    const position = nextPosition(this.#decided, request);
    const change = changeOf(request, position, this.#decided.tag);
    // If the store's queue is full, this throws before anything is staged, and earlier pending changes are not affected.
    const durable = this.#store.commit(change);
    this.#last = durable;
    const decision = { entry: after };
    const isNew = after !== undefined && before === undefined;
    if (isNew) this.#added++;
    const growth = (after?.weight ?? 0) - (before?.weight ?? 0);
    this.#growth += growth;
    if (vm) this.#decisions.set(vm.id, decision);
    this.#decided = position;
    try {
      await durable;
    } catch (error) {
      if (generation === this.#generation) {
        this.#generation++;
        this.#decisions.clear();
        this.#decided = this.#durable;
      }
      throw error;
    } finally {
      if (isNew) this.#added--;
      this.#growth -= growth;
    }
    this.#durable = position;
    if (vm && this.#decisions.get(vm.id) === decision) this.#decisions.delete(vm.id);
    this.#publish(position, apply);
    return position;
  }

  decide<T>(_id: string, act: () => Promise<T>): Promise<T> {
    return act();
  }

  async settle(): Promise<void> {
    await this.#last.catch(() => {});
  }

  async commitAll(
    decisions: readonly Decision[],
    forEach: ForEach,
  ): Promise<ReadonlyMap<number, VregError | Superseded>> {
    const changes: Change[] = [];
    let last = this.#decided;
    await forEach(decisions, (decision) => {
      const position = nextPosition(last, decision);
      changes.push(changeOf(decision, position, last.tag));
      last = position;
    });
    await this.#store.commitAll(changes, forEach);
    this.#decided = last;
    this.#durable = last;
    let at = 0;
    await forEach(decisions, ({ apply }) => {
      const { revision, tag } = changes[at++]!;
      this.#publish({ revision, tag }, apply);
    });
    return new Map();
  }

  #publish(position: Position, apply: Decision['apply']): void {
    this.#beforeNext();
    this.#positions.publish(position);
    apply(position)();
  }
}

/** The change of a decision, as the store gets it. */
export function changeOf({ vm, note, records, requires }: Decision, position: Position, previousTag: string): Change {
  if (vm?.after) vm.after.version.tag = position.tag;
  return { ...contentOf(vm), ...position, previousTag, note, records, requires };
}

function contentOf(
  vm: VmDecision | undefined,
): { kind: 'put'; vm: StoredVm } | { kind: 'remove'; id: string } | { kind: 'token' } {
  if (!vm) return { kind: 'token' };
  return vm.after ? { kind: 'put', vm: vm.after.toStored() } : { kind: 'remove', id: vm.id };
}

/** Computes the position of a change. Its tag hashes the change and the previous tag. */
function nextPosition({ revision: before, tag }: Position, { vm, note, records }: Omit<Decision, 'apply'>): Position {
  const revision = before + 1;
  return { revision, tag: tagAfter(tag, revision, { vm, note, records }) };
}

/** Computes the tag of a change. @param revision 0 if only the store knows it */
export function tagAfter(tag: string, revision: number, { vm, note, records }: Omit<Decision, 'apply'>): string {
  const { type, at, by } = note;
  const tokens = records.filter(({ kind }) => kind === 'token').map(({ key, body }) => [key, withoutLastUse(body)]);
  const head = JSON.stringify([tag, revision, vm?.id, type, at, by, tokens]);
  return tagOf(head, vm?.after?.body ?? '');
}

/** Removes the last use of a token, which is saved without a change and therefore must not affect a tag. */
function withoutLastUse(body: string | undefined): unknown {
  if (body === undefined) return null;
  const { lastUsedAt: _at, lastUsedFrom: _from, ...token } = JSON.parse(body) as Record<string, unknown>;
  return token;
}

/**
 * Record changes that are saved with the next heartbeats, and with every further save until they are durable. Only the newest
 * change to each record is retained.
 */
export class RecordQueue {
  readonly #unsaved = new Map<string, RecordChange>();

  get isEmpty(): boolean {
    return this.#unsaved.size === 0;
  }

  add(change: RecordChange): void {
    this.#unsaved.set(keyOf(change), change);
  }

  /** Drops the queued change to a record, because a commit in progress contains a newer one. @returns the dropped change */
  drop(record: Pick<RecordChange, 'kind' | 'key'>): RecordChange | undefined {
    const key = keyOf(record);
    const dropped = this.#unsaved.get(key);
    this.#unsaved.delete(key);
    return dropped;
  }

  get changes(): readonly RecordChange[] {
    return [...this.#unsaved.values()];
  }

  /** Removes changes that have become durable, unless a newer change to the record was queued in the meantime. */
  saved(changes: readonly RecordChange[]): void {
    for (const change of changes) if (this.#unsaved.get(keyOf(change)) === change) this.drop(change);
  }
}

/** VMs with heartbeats that are not durable yet, and the records that are saved with them. */
export class HeartbeatBuffer {
  readonly #store: Store;
  readonly records = new RecordQueue();
  /** Token revocations whose commit is in progress or has failed. */
  readonly revocations = new RecordQueue();
  /** May contain records that were deleted from the buffer; {@link VmRecord.isUnsaved} is false for them. */
  #heard: VmRecord[] = [];
  #count = 0;

  constructor(store: Store) {
    this.#store = store;
  }

  get isEmpty(): boolean {
    return this.#count === 0 && this.records.isEmpty && this.revocations.isEmpty;
  }

  add(entry: VmRecord): void {
    if (entry.isUnsaved) return;
    entry.isUnsaved = true;
    this.#count++;
    this.#heard.push(entry);
  }

  delete(entry: VmRecord): void {
    if (!entry.isUnsaved) return;
    entry.isUnsaved = false;
    this.#count--;
  }

  /** Takes records out of the buffer one by one, because the store reads them in slices. */
  *#take(records: readonly VmRecord[]): Generator<StoredHeartbeat> {
    for (const record of records) {
      if (!record.isUnsaved) continue;
      this.delete(record);
      yield { id: record.id, ...record.seen };
    }
  }

  /**
   * Makes the heartbeats and records durable. After a failure, they remain in the buffer for the next save.
   * @param listened milliseconds on the listening clock
   * @param isCurrent false for an entry that was replaced or removed
   * @throws the store's errors
   */
  async save(listened: number, isCurrent: (entry: VmRecord) => boolean): Promise<void> {
    const entries = this.#heard;
    this.#heard = [];
    const { changes } = this.records;
    try {
      await this.#store.saveHeartbeats(this.#take(entries), listened, changes);
    } catch (error) {
      // A VM may have sent another heartbeat during the save. Each is in the buffer once, also after many failures.
      const unsaved = new Set([...entries, ...this.#heard]);
      this.#heard = [];
      for (const entry of unsaved) {
        this.delete(entry);
        if (isCurrent(entry)) this.add(entry);
      }
      throw error;
    }
    this.records.saved(changes);
  }
}

function keyOf({ kind, key }: Pick<RecordChange, 'kind' | 'key'>): string {
  return `${kind} ${key}`;
}
