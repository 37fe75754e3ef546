/** Each VM under its parent, as in `vreg tree`. */
import { computed, signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { shellWord } from './fleet-filter.ts';
import { isFleetKnown, pulse, rows, structure } from './fleet-store.ts';
import { hrefOf, hrefOfVm, route } from './hash-route.ts';
import { vmsText } from './times.ts';
import { type RowAttributes, VirtualList } from './virtual-list.tsx';
import { Age, CopyButton, State, Untrusted, VmLink } from './widgets.tsx';

/** Levels that are indented; deeper ones are drawn at the last of them. */
const MAX_INDENT = 12;

interface TreeRow {
  id: string;
  /** Starts at 1. */
  level: number;
  childCount: number;
  /** The VM is a parent, but not registered. */
  isMissing: boolean;
}

/** Ids whose children are hidden. */
const collapsed = signal<ReadonlySet<string>>(new Set());
const active = signal(0);

/** The VMs in depth-first order, oldest registration first. A parent that is not registered is a row, too. */
const tree = computed((): readonly TreeRow[] => {
  structure.value;
  const childrenOf = new Map<string, string[]>();
  const roots: string[] = [];
  for (const { vm } of rows.values()) {
    const { id, parentId } = vm;
    if (parentId === undefined || parentId === id) roots.push(id);
    else {
      const siblings = childrenOf.get(parentId);
      if (siblings) siblings.push(id);
      else {
        childrenOf.set(parentId, [id]);
        if (!rows.has(parentId)) roots.push(parentId);
      }
    }
  }
  const found: TreeRow[] = [];
  const seen = new Set<string>();
  const walk = (start: string) => {
    const pending: [id: string, level: number][] = [[start, 1]];
    for (let next = pending.pop(); next; next = pending.pop()) {
      const [id, level] = next;
      // VMs can name each other as parents.
      if (seen.has(id)) continue;
      seen.add(id);
      const children = childrenOf.get(id) ?? [];
      found.push({ id, level, childCount: children.length, isMissing: !rows.has(id) });
      if (!collapsed.value.has(id)) for (const child of children.toReversed()) pending.push([child, level + 1]);
      else for (const child of children) hide(child, childrenOf, seen);
    }
  };
  const only = route.value.view === 'tree' ? route.value.params.get('id') : null;
  if (only !== null) walk(only);
  else {
    for (const root of roots) walk(root);
    for (const id of rows.keys()) walk(id);
  }
  return found;
});

/** Marks the descendants of a collapsed VM, so that they do not appear as roots. */
function hide(id: string, childrenOf: ReadonlyMap<string, readonly string[]>, seen: Set<string>): void {
  const pending = [id];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (seen.has(next)) continue;
    seen.add(next);
    for (const child of childrenOf.get(next) ?? []) pending.push(child);
  }
}

function setCollapsed(id: string, isCollapsed: boolean): void {
  const next = new Set(collapsed.value);
  if (isCollapsed) next.add(id);
  else next.delete(id);
  collapsed.value = next;
}

export function LineageTree() {
  const list = tree.value;
  const only = route.value.params.get('id');
  useEffect(() => {
    active.value = 0;
  }, [only]);
  const onKey = ({ key }: KeyboardEvent, index: number): boolean => {
    const row = list[index]!;
    if (key === 'Enter' && !row.isMissing) location.hash = hrefOfVm(row.id);
    else if (key === 'ArrowLeft' && row.childCount > 0 && !collapsed.value.has(row.id)) setCollapsed(row.id, true);
    else if (key === 'ArrowLeft') active.value = Math.max(0, parentIndex(list, index));
    else if (key === 'ArrowRight') setCollapsed(row.id, false);
    else return false;
    return true;
  };
  const command = only === null ? 'vreg tree' : `vreg tree ${shellWord(only)}`;
  return (
    <section class="view view-table">
      <h1 class="visually-hidden">Lineage</h1>
      <div class="selection" role="group" aria-label="Shown VMs">
        <span class="selection-count">
          {only === null ? (
            vmsText(list.length)
          ) : (
            <>
              Descendants of <Untrusted text={only} />
            </>
          )}
        </span>
        {only !== null && <a href={hrefOf('tree')}>Show all</a>}
        <span class="spacer" />
        <code>
          <Untrusted text={command} />
        </code>
        <CopyButton text={command} />
      </div>
      <VirtualList
        count={list.length}
        active={active}
        role="tree"
        label="Lineage"
        prefix="tree"
        keyAt={(index) => list[index]?.id}
        onKey={onKey}
        empty={isFleetKnown.value ? 'No VM is registered.' : 'Loading…'}
        renderRow={(index, attributes, slot) => <Row key={slot} row={list[index]!} attributes={attributes} />}
      />
    </section>
  );
}

function parentIndex(list: readonly TreeRow[], index: number): number {
  const { level } = list[index]!;
  return list.findLastIndex((row, at) => at < index && row.level < level);
}

function Row({ row, attributes }: { row: TreeRow; attributes: RowAttributes }) {
  pulse.value;
  const { id, level, childCount } = row;
  const isCollapsed = collapsed.value.has(id);
  // Undefined also for a VM that was removed since the last frame.
  const known = rows.get(id);
  return (
    <div
      {...attributes}
      role="treeitem"
      aria-level={level}
      aria-expanded={childCount === 0 ? undefined : !isCollapsed}
      aria-selected={attributes.class.includes('is-active')}
    >
      <span class="tree-indent" style={{ '--level': `${Math.min(level, MAX_INDENT) - 1}` }} />
      <button
        type="button"
        class="tree-toggle"
        tabIndex={-1}
        aria-hidden="true"
        disabled={childCount === 0}
        onClick={() => setCollapsed(id, !isCollapsed)}
      >
        {childCount === 0 ? '' : isCollapsed ? '▸' : '▾'}
      </button>
      <span class="tree-name">
        {known ? <VmLink id={id} name={known.vm.name} /> : <Untrusted text={id} />}
        {childCount > 0 && <span class="muted"> {childCount}</span>}
      </span>
      {known ? (
        <>
          <span class="cell-role">{known.vm.role}</span>
          <span class="cell-state">
            <State state={known.state} />
          </span>
          <span class="cell-seen">
            <Age at={known.seen} />
          </span>
        </>
      ) : (
        <span class="muted">not registered</span>
      )}
    </div>
  );
}
