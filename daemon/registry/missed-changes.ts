/** The changes that a client has missed since its last position, so that it need not read the entire list again. */
import type { ChangeType } from '../../src/protocol/events.ts';
import type { LastChange, Store } from '../store/store.ts';
import type { Occasion } from './events.ts';
import { type Spec, VmRecord } from './vm-record.ts';

/** A change to a VM, as an event reports it. */
export interface VmChange {
  type: ChangeType;
  entry: VmRecord;
  occasion: Occasion;
}

/**
 * The events that bring a client from an earlier position of this history to the current one: one per changed VM, with its
 * current entry, or its removal.
 * @param after revision of that position
 * @param until revision of the current position
 * @param entries all VMs at the current position
 * @returns undefined if the journal does not reach back that far
 * @throws the store's errors
 */
export async function changesSince(
  after: number,
  until: number,
  entries: Iterable<VmRecord>,
  store: Pick<Store, 'lastChanges'>,
): Promise<VmChange[] | undefined> {
  if (after === until) return [];
  const changed = new Map<string, VmRecord>();
  for (const entry of entries) if (entry.version.revision > after) changed.set(entry.id, entry);
  const last = await store.lastChanges(after, until);
  return last?.flatMap((change) => {
    const { id, revision, tag, at, by } = change;
    const entry = changed.get(id);
    const occasion = { position: { revision, tag }, at, by };
    if (!entry)
      return change.type === 'deregistered' ? [{ type: change.type, entry: removedEntry(change), occasion }] : [];
    const type = entry.version.created > after ? 'registered' : change.type;
    return [{ type, entry, occasion }];
  });
}

/** The last entry of a removed VM, as far as the journal contains it: without services and metadata. */
function removedEntry({ id, revision, tag, removed }: LastChange): VmRecord {
  const { services: _services, metadata: _metadata, reefConfig: _reefConfig, ...fields } = removed;
  // The registration was a sign of life. Later ones are not in the journal.
  const lastSeen = Date.parse(fields.registeredAt ?? '');
  return new VmRecord(
    { ...(fields as unknown as Spec), id },
    { created: revision, revision, tag },
    { lastSeen, heardAt: 0 },
  );
}
