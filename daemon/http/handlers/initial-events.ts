/** The first events of a stream, which bring the subscriber from its position, or from nothing, to the current state. */
import { formatPosition, type Position } from '../../../src/protocol/position.ts';
import type { Reservation } from '../../limits/budgets.ts';
import { type Event, eventOf } from '../../registry/events.ts';
import type { VmChange } from '../../registry/missed-changes.ts';
import type { Registry } from '../../registry/registry.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import type { RequestContext } from '../context.ts';
import { CHUNK_SIZE, POINTER_SIZE } from '../response/streaming.ts';
import type { SelectEvent, Snapshot } from './event-fanout.ts';
import type { EventFilter } from './event-filter.ts';
import { formatControl, formatEvent, formatWithoutId } from './event-text.ts';
import type { StateChunk } from './state-chunks.ts';

/** The current state, which subscribers at the same position share. Reserves its memory. */
export function snapshotFor({ services: { registry, fanout } }: RequestContext, reservation: Reservation): Snapshot {
  const snapshot = fanout.snapshot(registry.positions.latest, () => takeSnapshot(registry));
  reservation.share(snapshot, (snapshot.entries.length + 3 * snapshot.liveness.size) * POINTER_SIZE);
  return snapshot;
}

export function* missedEvents(missed: Iterable<Event>, select: SelectEvent, position: Position): Generator<string> {
  yield* formatSelected(missed, select);
  yield formatControl('synced', position);
}

/**
 * Formats the full state for a subscriber that cannot resume: `reset`, one event per entry, and `synced`. Subscribers with the
 * same filter share chunks.
 */
export function* fullState(
  { services: { registry, fanout } }: RequestContext,
  snapshot: Snapshot,
  { key: filterKey, select }: EventFilter,
): Generator<Buffer> {
  for (let next: number | undefined = 0; next !== undefined; ) {
    const start: number = next;
    const format = () => formatChunk(snapshot, start, select);
    const chunk = fanout.stateChunks.get({ snapshot, filterKey, start }, registry.clock.listening(), format);
    yield chunk.bytes;
    next = chunk.next;
  }
}

/** @param start number of entries in the chunks before this one, selected or not */
function formatChunk({ entries, liveness, position, at }: Snapshot, start: number, select: SelectEvent): StateChunk {
  const head = JSON.stringify({ type: 'registered', revision: position.revision, position: formatPosition(position) });
  const prefix = `event: registered\ndata: ${head.slice(0, -1)},"at":"`;
  let text = start === 0 ? formatControl('reset', position) : '';
  let count = 0;
  let next = start;
  while (next < entries.length && text.length < CHUNK_SIZE) {
    // Oldest first, so that subscribers build up the same order.
    const entry = entries[entries.length - ++next]!;
    const { id, role, status, registeredAt } = entry;
    if (!select({ id, role, status, before: {} })) continue;
    count++;
    // Not with `eventOf`, because subscribers with different filters may request the state of a large fleet at the same time.
    text += `${prefix}${registeredAt}","vm":${entry.json}}\n\n`;
    const silence = liveness.get(entry);
    if (silence) text += formatWithoutId(eventOf(silence, entry, { position, at }));
  }
  const isLast = next === entries.length && text.length < CHUNK_SIZE;
  if (isLast) text += formatControl('synced', position);
  return { bytes: Buffer.from(text), next: isLast ? undefined : next, isShareable: count > 1 || start > 0 || !isLast };
}

/** Formats the differences for a subscriber at an earlier position: one event per changed VM, and one per stale or suspect VM. */
export function* changedState(
  changes: readonly VmChange[],
  { entries, liveness, position, at }: Snapshot,
): Generator<string> {
  for (const { type, entry, occasion } of changes) yield formatWithoutId(eventOf(type, entry, occasion));
  for (let i = entries.length - 1; i >= 0; i--) {
    const entry = entries[i]!;
    const silence = liveness.get(entry);
    if (silence) yield formatWithoutId(eventOf(silence, entry, { position, at }));
  }
  yield formatControl('synced', position);
}

export function* formatSelected(events: Iterable<Event>, select: SelectEvent): Generator<string> {
  for (const event of events) {
    const selected = select(event);
    if (selected) yield formatEvent(selected);
  }
}

function takeSnapshot(registry: Registry): Snapshot {
  const entries = registry.list({});
  const liveness = new Map<VmRecord, 'stale' | 'suspect'>();
  for (const entry of registry.silent()) liveness.set(entry, entry.isSuspect ? 'suspect' : 'stale');
  return { entries, liveness, position: registry.positions.latest, at: registry.clock.now() };
}

/** Joins texts to chunks of at least {@link CHUNK_SIZE}, except for the last one. */
export function* joinChunks(texts: Iterable<string>): Generator<string> {
  let chunk = '';
  for (const text of texts) {
    chunk += text;
    if (chunk.length < CHUNK_SIZE) continue;
    yield chunk;
    chunk = '';
  }
  if (chunk !== '') yield chunk;
}
