/**
 * The changes of a registry that is the only writer of its store, until they are durable. Later changes are validated against
 * them, although readers cannot see them yet. If the store fails to write one, all later ones fail too. This class assigns all
 * revisions and tags.
 */
import type { VregError } from '../../src/protocol/errors.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Change, ForEach, Store } from '../store/store.ts';
import type { Positions } from './positions.ts';
import type { VmRecord } from './vm-record.ts';
import { type Changes, changeOf, type Decision, type Superseded, tagAfter } from './writes.ts';

export class PendingChanges implements Changes {
  readonly commitsTogether = true;
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

/** Computes the position of a change. Its tag hashes the change and the previous tag. */
function nextPosition({ revision: before, tag }: Position, { vm, note, records }: Omit<Decision, 'apply'>): Position {
  const revision = before + 1;
  return { revision, tag: tagAfter(tag, revision, { vm, note, records }) };
}
