/** The changes and the signs of life of one VM, newest first. */
import { useEffect } from 'preact/hooks';
import { formatChanges, type History, type RecentEvents } from '../protocol/events.ts';
import { keyOf } from './event-order.ts';
import { eventCount, events, followSignsOfLife, pulse, rows, signsOfLife, structure } from './fleet-store.ts';
import { ageText, numberText, timeText } from './times.ts';
import { Age, Untrusted } from './widgets.tsx';

/** Entries that the timeline shows, and changes that it asks for. */
export const MAX_ENTRIES = 50;

/** The registry's records of this VM; undefined parts are unknown or may not be read. */
interface Known {
  history: History | undefined;
  recent: RecentEvents | undefined;
}

interface Entry {
  key: string;
  at: string;
  type: string;
  by: string | undefined;
  text: string;
}

export function VmTimeline({ id, known }: { id: string; known: Known | undefined }) {
  eventCount.value;
  structure.value;
  pulse.value;
  useEffect(() => followSignsOfLife(id), [id]);
  const signs = signsOfLife(id);
  const entries = entriesOf(id, known, signs?.times ?? []);
  const row = rows.get(id);
  return (
    <section class="panel">
      <h2>Timeline</h2>
      <ol class="timeline">
        {row && (
          <li class="timeline-now">
            <span>
              <span class="muted">
                <Age at={row.seen} /> ago ({timeText(row.seen)})
              </span>
            </span>
            <strong>last sign of life</strong>
          </li>
        )}
        {entries.map(({ key, at, type, by, text }) => (
          <li key={key} class={`timeline-${type}`}>
            <time dateTime={at}>{timeText(at)}</time>
            <strong>{type === SIGNS ? '' : type}</strong>
            {by !== undefined && (
              <span class="muted">
                by <Untrusted text={by} />
              </span>
            )}
            {text !== '' && <Untrusted text={text} />}
          </li>
        ))}
      </ol>
      {entries.length === 0 && !row && <p class="muted">No change is on record.</p>}
      {signs && row && <p class="muted">Single signs of life are shown since {timeText(signs.since)}.</p>}
    </section>
  );
}

const SIGNS = 'signs';

/** Committed changes, the liveness events that the registry or this tab retains, and signs of life, newest first. */
function entriesOf(id: string, known: Known | undefined, signs: readonly number[]): Entry[] {
  const found = new Map<string, Entry>();
  for (const [index, { revision, at, type, by, changes }] of (known?.history?.history ?? []).entries()) {
    const text = type === 'updated' || type === 'status' ? formatChanges(changes, '→') : '';
    // A change that was made in another store has no revision.
    const key = `${revision ?? `${at} ${index}`} ${type}`;
    found.set(key, { key, at, type, by, text });
  }
  const live = [...events(), ...(known?.recent?.events ?? [])].filter(({ vm }) => vm.id === id);
  for (const event of live) {
    const { revision, type, at, by, changes } = event;
    const key = ['stale', 'suspect', 'revived', 'conflict'].includes(type) ? keyOf(event) : `${revision} ${type}`;
    const text = changes && (type === 'updated' || type === 'status') ? formatChanges(changes, '→') : '';
    if (!found.has(key)) found.set(key, { key, at, type, by, text });
  }
  const entries = [...found.values()].sort((a, b) => (a.at < b.at ? 1 : a.at > b.at ? -1 : 0));
  return withSigns(entries, signs).slice(0, MAX_ENTRIES);
}

/** Adds one entry for all signs of life between two other entries. @param times oldest first */
function withSigns(entries: readonly Entry[], times: readonly number[]): Entry[] {
  const found: Entry[] = [];
  let end = times.length;
  const addFrom = (start: number) => {
    if (start < end) found.push(entryOfSigns(times.slice(start, end)));
    end = start;
  };
  for (const entry of entries) {
    const at = Date.parse(entry.at);
    // A registration is itself a sign of life, at the same time.
    addFrom(times.findLastIndex((time) => time <= at) + 1);
    found.push(entry);
  }
  addFrom(0);
  return found;
}

function entryOfSigns(times: readonly number[]): Entry {
  const [first = 0] = times;
  const last = times.at(-1)!;
  const count = times.length;
  const text =
    count === 1
      ? 'sign of life'
      : `${numberText(count)} signs of life until ${timeText(last).slice(11)}, every ${ageText((last - first) / (count - 1))}`;
  return { key: `${SIGNS} ${first}`, at: new Date(first).toISOString(), type: SIGNS, by: undefined, text };
}
