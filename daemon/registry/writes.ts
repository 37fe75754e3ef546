/** Changes on their way to the store: their parts, and the tag that identifies the history up to a change. */
import type { VregError } from '../../src/protocol/errors.ts';
import { type Position, tagOf } from '../../src/protocol/position.ts';
import type { Change, ForEach, JournalNote, RecordChange, StoredVm } from '../store/store.ts';
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
  /** True if {@link commitAll} is one transaction: no other change may be committed until it is done. */
  readonly commitsTogether: boolean;
  /**
   * Commits many changes. Call it when the earlier ones are {@link settle}d.
   * @returns the errors of changes that were not committed, by their index. Without replicas, all changes are one transaction
   * @throws the store's errors
   */
  commitAll(decisions: readonly Decision[], forEach: ForEach): Promise<ReadonlyMap<number, VregError | Superseded>>;
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
