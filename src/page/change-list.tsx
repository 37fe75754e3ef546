/** The history of the fleet: changes and changes of liveness, newest first. */
import { signal, useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { PATHS } from '../protocol/api.ts';
import { formatChanges, type RecentEvents, type VmEvent } from '../protocol/events.ts';
import { keyOf } from './event-order.ts';
import { addOlderEvents, eventCount, events, link } from './fleet-store.ts';
import { hrefOfVm, route, setParams } from './hash-route.ts';
import { messageOf, request } from './requests.ts';
import { numberText, timeText } from './times.ts';
import { type RowAttributes, VirtualList } from './virtual-list.tsx';
import { CopyButton, Untrusted, VmLink } from './widgets.tsx';

/** As many as the page retains. */
const LIMIT = 1000;

const KINDS = {
  all: () => true,
  changes: ({ type }: VmEvent) => !['stale', 'suspect', 'revived', 'conflict'].includes(type),
  liveness: ({ type }: VmEvent) => ['stale', 'suspect', 'revived'].includes(type),
  conflicts: ({ type }: VmEvent) => type === 'conflict',
} as const;
type Kind = keyof typeof KINDS;

const EMPTY: Readonly<Record<Kind, string>> = {
  all: 'Nothing has changed since the registry started.',
  changes: 'No VM has changed since the registry started.',
  liveness: 'No VM has fallen silent since the registry started.',
  conflicts: 'No conflict has appeared since the registry started.',
};

const active = signal(0);

export function ChangeList() {
  const isLive = link.value.connection === 'live';
  /** Why there may be events that the page does not know. */
  const problem = useSignal<string | undefined>('Loading…');
  // After an outage, some events are missing.
  useEffect(() => {
    request<RecentEvents>('GET', `${PATHS.recent}?limit=${LIMIT}`).then(
      ({ events: older }) => {
        addOlderEvents(older);
        problem.value = undefined;
      },
      (error: unknown) => {
        problem.value = messageOf(error);
      },
    );
  }, [isLive]);
  eventCount.value;
  const given = route.value.params.get('kind') ?? 'all';
  const kind: Kind = Object.hasOwn(KINDS, given) ? (given as Kind) : 'all';
  const list = events().filter(KINDS[kind]);
  return (
    <section class="view view-table">
      <h1 class="visually-hidden">History</h1>
      <div class="selection" role="toolbar" aria-label="Kind of events">
        {(Object.keys(KINDS) as Kind[]).map((each) => (
          <button
            key={each}
            type="button"
            aria-pressed={each === kind}
            onClick={() => {
              active.value = 0;
              setParams({ kind: each === 'all' ? '' : each });
            }}
          >
            {each}
          </button>
        ))}
        <span class="muted">the last {numberText(list.length)}</span>
        <span class="spacer" />
        <code>vreg watch</code>
        <CopyButton text="vreg watch" />
      </div>
      <VirtualList
        count={list.length}
        active={active}
        role="grid"
        label="History"
        prefix="event"
        columnCount={5}
        keyAt={(index) => list[index] && keyOf(list[index])}
        onKey={({ key }, index) => {
          if (key === 'Enter') location.hash = hrefOfVm(list[index]!.vm.id);
          return key === 'Enter';
        }}
        header={
          <div class="table-header" role="rowgroup">
            <div class="row row-event" role="row">
              <div role="columnheader" class="cell-time">
                Time
              </div>
              <div role="columnheader" class="cell-type">
                Event
              </div>
              <div role="columnheader" class="cell-name">
                VM
              </div>
              <div role="columnheader" class="cell-by">
                By
              </div>
              <div role="columnheader" class="cell-changes">
                Changes
              </div>
            </div>
          </div>
        }
        empty={<Untrusted text={problem.value ?? EMPTY[kind]} />}
        renderRow={(index, attributes, slot) => (
          <Row key={slot} event={list[index]!} index={index} attributes={attributes} />
        )}
      />
    </section>
  );
}

function Row({ event, index, attributes }: { event: VmEvent; index: number; attributes: RowAttributes }) {
  const { type, at, by = '–', vm, changes } = event;
  const time = timeText(at);
  const text = changes && (type === 'updated' || type === 'status') ? formatChanges(changes, '→') : '';
  return (
    <div {...attributes} class={`${attributes.class} row-event`} role="row" aria-rowindex={index + 2}>
      <div class="cell-time" role="gridcell">
        <time dateTime={at} title={time}>
          <span class="year">{time.slice(0, 5)}</span>
          {time.slice(5)}
        </time>
      </div>
      <div class="cell-type" role="gridcell">
        <span class={`event event-${type}`}>{type}</span>
      </div>
      <div class="cell-name" role="gridcell">
        <VmLink id={vm.id} name={vm.name} />
      </div>
      <div class="cell-by" role="gridcell">
        <Untrusted text={by} />
      </div>
      <div class="cell-changes" role="gridcell">
        <Untrusted text={text} />
      </div>
    </div>
  );
}
