/**
 * A list of rows with the same height, of which only the visible ones are in the document. It has one focus; the arrow keys move
 * the active row.
 */
import { type Signal, useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

/** CSS pixels of a row, as in style.css. */
export const ROW_HEIGHT = 28;
/** Rows above and below the visible ones, so that scrolling shows no gaps. */
const OVERSCAN = 8;

interface Props {
  count: number;
  /** Index of the active row. */
  active: Signal<number>;
  role: 'grid' | 'tree';
  label: string;
  /** Prefix of the ids of rows. */
  prefix: string;
  isMultiselectable?: boolean;
  columnCount?: number;
  /** The row with the column titles. */
  header?: ComponentChildren;
  /** Shown if there are no rows. */
  empty: ComponentChildren;
  /** @param slot key of the row: rows that leave the window lend their elements to those that enter it */
  renderRow(index: number, attributes: RowAttributes, slot: number): ComponentChildren;
  /** The identity of a row while others come and leave; undefined if there is no such row. */
  keyAt(index: number): string | undefined;
  /** @returns true if it has handled the key */
  onKey?(event: KeyboardEvent, index: number): boolean;
}

export interface RowAttributes {
  id: string;
  class: string;
  style: Readonly<Record<string, string>>;
}

export function VirtualList({ count, active, header, empty, renderRow, keyAt, onKey, ...names }: Props) {
  const { role, label, prefix, isMultiselectable, columnCount } = names;
  const viewport = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useSignal(600);
  const index = Math.min(active.value, count - 1);

  useLayoutEffect(() => {
    const element = viewport.current!;
    const observer = new ResizeObserver(() => {
      height.value = element.clientHeight;
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    const element = viewport.current!;
    if (element.scrollTop > count * ROW_HEIGHT) element.scrollTop = 0;
  }, [count]);

  // The active row stays active when the list changes around it, except the first one: new rows are often above it.
  const activeRow = useRef<{ at: number; key: string | undefined }>({ at: -1, key: undefined });
  useLayoutEffect(() => {
    const { at, key } = activeRow.current;
    if (at === index && index > 0 && key !== undefined && keyAt(index) !== key) {
      for (let found = 0; found < count; found++) if (keyAt(found) === key) active.value = found;
    }
    const current = Math.min(active.value, count - 1);
    activeRow.current = { at: current, key: keyAt(current) };
  });
  // A list that is shown again has the same active row.
  useLayoutEffect(() => {
    if (index > 0) show(index);
  }, []);

  const move = (to: number) => {
    const next = Math.max(0, Math.min(count - 1, to));
    active.value = next;
    show(next);
  };
  const show = (next: number) => {
    const element = viewport.current!;
    const headerHeight = header === undefined ? 0 : ROW_HEIGHT;
    const start = next * ROW_HEIGHT;
    const visible = element.clientHeight - headerHeight;
    if (start < element.scrollTop) element.scrollTop = start;
    else if (start + ROW_HEIGHT > element.scrollTop + visible) element.scrollTop = start + ROW_HEIGHT - visible;
    top.value = element.scrollTop;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.target !== viewport.current) return;
    const rowsPerPage = Math.max(1, Math.floor(height.value / ROW_HEIGHT) - 2);
    const target: Record<string, number> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + rowsPerPage,
      PageUp: index - rowsPerPage,
      Home: 0,
      End: count - 1,
    };
    const to = target[event.key];
    if (to !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      const isHandled = event.shiftKey && onKey?.(event, Math.max(0, Math.min(count - 1, to)));
      if (!isHandled || to !== active.value) move(to);
    } else if (index >= 0 && onKey?.(event, index)) event.preventDefault();
  };

  const first = Math.max(0, Math.floor(top.value / ROW_HEIGHT) - OVERSCAN);
  const last = Math.min(count, Math.ceil((top.value + height.value) / ROW_HEIGHT) + OVERSCAN);
  const slots = Math.ceil(height.value / ROW_HEIGHT) + 2 * OVERSCAN + 1;
  const visible: ComponentChildren[] = [];
  for (let at = first; at < last; at++) {
    visible.push(
      renderRow(
        at,
        {
          id: `${prefix}-${at}`,
          class: at === index ? 'row is-active' : 'row',
          style: { transform: `translateY(${at * ROW_HEIGHT}px)` },
        },
        at % slots,
      ),
    );
  }
  const isActiveVisible = index >= first && index < last;
  return (
    <div
      ref={viewport}
      class="virtual"
      role={role}
      aria-label={label}
      aria-rowcount={role === 'grid' ? count + 1 : undefined}
      aria-colcount={columnCount}
      aria-multiselectable={isMultiselectable}
      aria-activedescendant={isActiveVisible ? `${prefix}-${index}` : undefined}
      tabIndex={0}
      onScroll={({ currentTarget }) => {
        top.value = currentTarget.scrollTop;
      }}
      onKeyDown={onKeyDown}
    >
      {header}
      {count === 0 ? (
        <div class="empty" role={role === 'grid' ? 'row' : 'treeitem'}>
          <div role={role === 'grid' ? 'gridcell' : undefined}>{empty}</div>
        </div>
      ) : (
        <div class="rows" role={role === 'grid' ? 'rowgroup' : 'none'} style={{ height: `${count * ROW_HEIGHT}px` }}>
          {visible}
        </div>
      )}
    </div>
  );
}
