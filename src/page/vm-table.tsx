/** The table of VMs: filter, sort order, selection, and actions on all selected VMs. */
import { computed, effect, signal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { ask } from './action-dialog.tsx';
import { titleOf, VM_ACTIONS } from './action-plan.ts';
import { FilterError, type FleetFilter, parseFleetFilter } from './fleet-filter.ts';
import type { FleetRow } from './fleet-message.ts';
import { isFleetKnown, pulse, refusalOf, rows, structure } from './fleet-store.ts';
import { hrefOf, hrefOfVm, route, setParams, tableHref } from './hash-route.ts';
import { peekServerNow, serverNow } from './server-clock.ts';
import { numberText, vmsText } from './times.ts';
import { type RowAttributes, VirtualList } from './virtual-list.tsx';
import { Age, CopyButton, download, Refusal, State, Untrusted, VmLink } from './widgets.tsx';

/** Milliseconds after the last key until the URL contains the filter. */
const TYPING_PAUSE = 300;
/** After a filter has taken some time, it rests for this many times as long, so that scrolling stays smooth. */
const REST_FACTOR = 6;

const SORTS = {
  registered: { title: 'Registered', compare: undefined },
  name: { title: 'Name', compare: (a: FleetRow, b: FleetRow) => order(a.vm.name, b.vm.name) },
  role: { title: 'Role', compare: (a: FleetRow, b: FleetRow) => order(a.vm.role, b.vm.role) },
  state: { title: 'State', compare: (a: FleetRow, b: FleetRow) => order(RANK[a.state], RANK[b.state]) },
  seen: { title: 'Seen', compare: (a: FleetRow, b: FleetRow) => b.seen - a.seen },
} as const;
type SortKey = keyof typeof SORTS;

/** States that need attention come first. */
const RANK = { stale: 0, suspect: 1, live: 2, paused: 3, stopped: 4 } as const;

function order<T extends string | number>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The text in the filter line; the URL follows it. */
const draft = signal(route.value.params.get('q') ?? '');
const selected = signal<ReadonlySet<string>>(new Set());
const active = signal(0);

let typing: ReturnType<typeof setTimeout> | undefined;

/** Another view is open before the URL contains the typed text: the link back to the table gets it. */
function keepDraft(): void {
  if (typing === undefined) return;
  clearTimeout(typing);
  typing = undefined;
  const [, query] = tableHref.peek().split('?');
  tableHref.value = hrefOf('vms', { ...Object.fromEntries(new URLSearchParams(query)), q: draft.peek() });
}

/** Writes the typed text into the URL now. */
function flushDraft(): void {
  if (typing === undefined) return;
  clearTimeout(typing);
  typing = undefined;
  if (route.value.view === 'vms') setParams({ q: draft.value });
}

// A link, or the browser's history, may change the filter.
effect(() => {
  const { view, params } = route.value;
  if (view === 'vms') draft.value = params.get('q') ?? '';
  else keepDraft();
});

function changeDraft(text: string): void {
  draft.value = text;
  active.value = 0;
  clearTimeout(typing);
  typing = setTimeout(flushDraft, TYPING_PAUSE);
}

const parsed = computed((): { filter?: FleetFilter; error?: FilterError } => {
  try {
    return { filter: parseFleetFilter(draft.value) };
  } catch (error) {
    if (error instanceof FilterError) return { error };
    throw error;
  }
});

/** While the filter has an error, the table shows the rows of the last valid one. */
let lastFilter = parseFleetFilter('');

const sort = computed((): { key: SortKey; isReversed: boolean } => {
  const given = route.value.params.get('sort') ?? 'registered';
  const isReversed = given.startsWith('-');
  const key = isReversed ? given.slice(1) : given;
  return { key: Object.hasOwn(SORTS, key) ? (key as SortKey) : 'registered', isReversed };
});

/** Incremented when the list must be computed again. */
const due = signal(0);
let restUntil = 0;
let isWaiting = false;

// A change of the filter or of the order is immediate; changes of the fleet wait until the last computation is paid off.
effect(() => {
  structure.value;
  const { filter } = parsed.value;
  if (sort.value.key === 'seen') pulse.value;
  if (filter?.usesTime) serverNow();
  const rest = restUntil - performance.now();
  if (rest <= 0) due.value = due.peek() + 1;
  else if (!isWaiting) {
    isWaiting = true;
    setTimeout(() => {
      isWaiting = false;
      due.value++;
    }, rest);
  }
});

/** The rows that the table shows. */
const shown = computed((): readonly FleetRow[] => {
  due.value;
  const started = performance.now();
  const { filter = lastFilter } = parsed.value;
  lastFilter = filter;
  const now = peekServerNow();
  const found: FleetRow[] = [];
  for (const row of rows.values()) if (filter.matches(row, now)) found.push(row);
  const { key, isReversed } = sort.value;
  const { compare } = SORTS[key];
  // Newest registration first, as in vreg ls, also among equal rows.
  found.reverse();
  if (compare) found.sort(compare);
  if (isReversed) found.reverse();
  restUntil = performance.now() + REST_FACTOR * (performance.now() - started);
  return found;
});

/** The selected VMs that still exist. */
const chosen = computed((): readonly string[] => {
  structure.value;
  return [...selected.value].filter((id) => rows.has(id));
});

/** The number of selected VMs that do not match the filter. */
const hiddenCount = computed((): number => {
  const visible = new Set(chosen.value.length === 0 ? [] : shown.value.map(({ vm }) => vm.id));
  return chosen.value.filter((id) => !visible.has(id)).length;
});

export function VmTable() {
  const list = shown.value;
  const { key, isReversed } = sort.value;
  const toggle = (ids: readonly string[], isChosen: boolean) => {
    const next = new Set(selected.value);
    for (const id of ids) isChosen ? next.add(id) : next.delete(id);
    selected.value = next;
  };
  const onKey = (event: KeyboardEvent, index: number): boolean => {
    const row = list[index];
    if (!row) return false;
    const { id } = row.vm;
    if (event.key === 'Enter') location.hash = hrefOfVm(id);
    else if (event.key === ' ') toggle([id], !selected.value.has(id));
    else if (event.shiftKey && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
      const current = list[active.value];
      toggle(current ? [current.vm.id, id] : [id], true);
      return false;
    } else if (event.key === 'a' && (event.ctrlKey || event.metaKey))
      toggle(
        list.map(({ vm }) => vm.id),
        true,
      );
    else if (event.key === 'Escape') selected.value = new Set();
    else return false;
    return true;
  };
  return (
    <section class="view view-table">
      <h1 class="visually-hidden">VMs</h1>
      <FilterLine count={list.length} />
      <SelectionBar list={list} />
      <VirtualList
        count={list.length}
        active={active}
        role="grid"
        label="VMs"
        prefix="vm"
        isMultiselectable
        columnCount={6}
        keyAt={(index) => list[index]?.vm.id}
        onKey={onKey}
        header={<Header list={list} sortKey={key} isReversed={isReversed} toggle={toggle} />}
        empty={
          !isFleetKnown.value ? (
            'Loading…'
          ) : rows.size === 0 ? (
            'No VM is registered.'
          ) : (
            <>
              No VM matches the filter. <a href={hrefOf('vms')}>Show all {numberText(rows.size)}</a>
            </>
          )
        }
        renderRow={(index, attributes, slot) => (
          <Row key={slot} row={list[index]!} index={index} attributes={attributes} toggle={toggle} />
        )}
      />
    </section>
  );
}

function focusTable(event: Event): void {
  event.preventDefault();
  document.querySelector<HTMLElement>('.virtual')?.focus();
}

function FilterLine({ count }: { count: number }) {
  structure.value;
  const { error, filter } = parsed.value;
  const text = draft.value;
  return (
    <form class="filter" role="search" onSubmit={focusTable}>
      <div class="filter-input">
        <label for="filter" class="visually-hidden">
          Filter
        </label>
        <input
          id="filter"
          type="search"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          placeholder="role:worker live:stale -task:x seen>5m"
          value={text}
          aria-invalid={error !== undefined}
          aria-describedby={error ? 'filter-error' : 'filter-count'}
          onInput={({ currentTarget }) => changeDraft(currentTarget.value)}
          onBlur={flushDraft}
          onKeyDown={(event) => {
            if (event.key === 'ArrowDown') focusTable(event);
          }}
        />
        <output id="filter-count" class="muted">
          {numberText(count)} of {vmsText(rows.size)}
        </output>
      </div>
      {error && (
        <div id="filter-error" class="filter-error" role="alert">
          <pre aria-hidden="true">
            {text.slice(0, error.at)}
            <mark>{text.slice(error.at, error.at + error.length) || ' '}</mark>
            {text.slice(error.at + error.length)}
          </pre>
          {error.message} (character {error.at + 1})
        </div>
      )}
      {filter && (
        <div class="filter-command">
          <code tabIndex={0}>{filter.command}</code>
          <CopyButton text={filter.command} />
          <button
            type="button"
            class="quiet"
            onClick={() =>
              download(
                'vms.json',
                'application/json',
                JSON.stringify(
                  shown.value.map(({ vm }) => vm),
                  null,
                  2,
                ),
              )
            }
          >
            Download JSON
          </button>
        </div>
      )}
    </form>
  );
}

function SelectionBar({ list }: { list: readonly FleetRow[] }) {
  const ids = chosen.value;
  const refusal = refusalOf('write');
  const isNone = ids.length === 0;
  const hidden = hiddenCount.value;
  const selectionText = `${numberText(ids.length)} selected${hidden === 0 ? '' : `, ${numberText(hidden)} not shown`}`;
  const notice = hidden === 0 ? undefined : `${selectionText}: the filter hides them.`;
  const clear = () => {
    selected.value = new Set();
  };
  const staleCount = isNone ? 0 : ids.filter((id) => rows.get(id)?.state === 'stale').length;
  return (
    <div class="selection" role="toolbar" aria-label="Selected VMs">
      <span class="selection-count">{isNone ? 'None selected' : selectionText}</span>
      {VM_ACTIONS.map((name) => (
        <button
          key={name}
          type="button"
          class={name === 'remove' ? 'danger-quiet' : ''}
          disabled={isNone || refusal !== undefined}
          title={refusal ?? ''}
          onClick={() => ask(name, ids, clear, notice)}
        >
          {titleOf(name)}
        </button>
      ))}
      <button
        type="button"
        class="danger-quiet"
        disabled={refusal !== undefined || (!isNone && staleCount === 0)}
        title={refusal ?? 'remove stale VMs that have been silent for long'}
        onClick={() => ask('prune', isNone ? list.map(({ vm }) => vm.id) : ids, clear, notice)}
      >
        Prune…
      </button>
      <Refusal text={refusal} />
      {!isNone && (
        <button type="button" class="quiet" onClick={clear}>
          Clear selection
        </button>
      )}
    </div>
  );
}

interface HeaderProps {
  list: readonly FleetRow[];
  sortKey: SortKey;
  isReversed: boolean;
  toggle(ids: readonly string[], isChosen: boolean): void;
}

function Header({ list, sortKey, isReversed, toggle }: HeaderProps) {
  const isAll =
    list.length > 0 && selected.value.size >= list.length && list.every(({ vm }) => selected.value.has(vm.id));
  const column = (key: SortKey, className: string) => {
    const isSorted = sortKey === key;
    const direction = isSorted ? (isReversed ? 'descending' : 'ascending') : 'none';
    return (
      <div class={className} role="columnheader" aria-sort={direction}>
        <button
          type="button"
          onClick={() => {
            active.value = 0;
            setParams({ sort: isSorted && !isReversed ? `-${key}` : key });
          }}
        >
          {SORTS[key].title}
          <span aria-hidden="true">{isSorted ? (isReversed ? ' ↓' : ' ↑') : ''}</span>
        </button>
      </div>
    );
  };
  return (
    <div class="table-header" role="rowgroup">
      <div class="row" role="row">
        <div class="cell-check" role="columnheader">
          <input
            type="checkbox"
            aria-label="Select all VMs that match the filter"
            checked={isAll}
            onChange={() =>
              toggle(
                list.map(({ vm }) => vm.id),
                !isAll,
              )
            }
          />
        </div>
        {column('name', 'cell-name')}
        {column('role', 'cell-role')}
        {column('state', 'cell-state')}
        {column('seen', 'cell-seen')}
        <div class="cell-address" role="columnheader">
          Address
        </div>
        <div class="cell-id" role="columnheader">
          Id
        </div>
      </div>
    </div>
  );
}

interface RowProps {
  row: FleetRow;
  index: number;
  attributes: RowAttributes;
  toggle(ids: readonly string[], isChosen: boolean): void;
}

function Row({ row, index, attributes, toggle }: RowProps): ComponentChildren {
  // Heartbeats change only the visible rows.
  pulse.value;
  const { vm, state, seen } = row;
  const isChosen = selected.value.has(vm.id);
  return (
    <div {...attributes} role="row" aria-rowindex={index + 2} aria-selected={isChosen}>
      <div class="cell-check" role="gridcell">
        <input
          type="checkbox"
          tabIndex={-1}
          aria-label={`Select row ${index + 1}`}
          checked={isChosen}
          onChange={() => toggle([vm.id], !isChosen)}
        />
      </div>
      <div class="cell-name" role="gridcell">
        <VmLink id={vm.id} name={vm.name} />
      </div>
      <div class="cell-role" role="gridcell">
        {vm.role}
      </div>
      <div class="cell-state" role="gridcell">
        <State state={state} />
      </div>
      <div class="cell-seen" role="gridcell">
        <Age at={seen} />
      </div>
      <div class="cell-address" role="gridcell">
        <Untrusted text={vm.address} />
      </div>
      <div class="cell-id" role="gridcell">
        <Untrusted text={vm.id} />
      </div>
    </div>
  );
}
