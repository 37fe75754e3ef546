/** One cell per VM on a canvas, by role. The state has a colour and a shape. */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { printable } from '../protocol/redact.ts';
import type { FleetRow } from './fleet-message.ts';
import { type Counts, STATES } from './fleet-store.ts';
import { hrefOf, hrefOfVm } from './hash-route.ts';
import { serverNow } from './server-clock.ts';
import { ageText, numberText, vmsText } from './times.ts';
import { type Colors, useCanvas } from './use-canvas.ts';

/** CSS pixels of a cell with its gap: large for few VMs, small enough for 10,000 on one screen. */
const MAX_CELL = 18;
const MIN_CELL = 5;
/** Least height in CSS pixels of all grids, for windows in which the parts above them need most of the height. */
const MIN_HEIGHT = 240;
/** Height in CSS pixels of the title and the margins of the panel, and of the margin of a grid, as in style.css. */
const PANEL_HEIGHT = 72;
const GRID_MARGIN = 8;
/** Characters of a name in the tooltip. */
const MAX_NAME = 80;

interface Props {
  role: string;
  vms: readonly FleetRow[];
  counts: Counts;
  /** The number of VMs of each role. */
  sizes: readonly number[];
}

export function HeatGrid({ role, vms, counts, sizes }: Props) {
  const cursor = useSignal(-1);
  const container = useRef<HTMLDivElement>(null);
  const layout = useRef({ columns: 1, cell: MAX_CELL, width: 1 });
  const canvas = useCanvas(container, (context, width, colors) => {
    const cell = cellSize(sizes, width, availableHeight(container.current!));
    const columns = Math.max(1, Math.floor(width / cell));
    layout.current = { columns, cell, width };
    return {
      height: Math.ceil(vms.length / columns) * cell,
      draw: () => {
        vms.forEach(({ state }, index) => {
          const x = (index % columns) * cell;
          const y = Math.floor(index / columns) * cell;
          drawCell(context, state, colors, x, y, cell - (cell > 8 ? 2 : 1));
        });
      },
    };
  });
  useEffect(() => canvas.redraw(), [vms]);

  const indexAt = ({ offsetX, offsetY }: MouseEvent) => {
    const { columns, cell } = layout.current;
    const column = Math.floor(offsetX / cell);
    const index = Math.floor(offsetY / cell) * columns + column;
    return column < columns && index < vms.length ? index : -1;
  };
  const open = (index: number) => {
    const row = vms[index];
    if (row) location.hash = hrefOfVm(row.vm.id);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const { columns } = layout.current;
    const steps: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const step = steps[event.key];
    if (step !== undefined) cursor.value = Math.max(0, Math.min(vms.length - 1, Math.max(cursor.value, 0) + step));
    else if (event.key === 'Home') cursor.value = 0;
    else if (event.key === 'End') cursor.value = vms.length - 1;
    else if (event.key === 'Enter') open(cursor.value);
    else return;
    event.preventDefault();
  };
  const hide = () => {
    cursor.value = -1;
  };
  const states = STATES.filter((state) => counts[state] > 0).map((state) => `${numberText(counts[state])} ${state}`);
  return (
    <div class="heat">
      <h3>
        <a href={hrefOf('vms', { q: `role:${role}` })}>{role}</a> <span class="muted">{numberText(vms.length)}</span>
      </h3>
      <div ref={container} class="heat-canvas">
        {/* The table shows the same VMs as text. */}
        <canvas
          ref={canvas.ref}
          tabIndex={0}
          role="application"
          aria-label={`${vmsText(vms.length)} with the role ${role}, ${states.join(', ')}: move with the arrow keys, open with Enter`}
          onMouseMove={(event) => {
            cursor.value = indexAt(event);
          }}
          onMouseLeave={hide}
          onFocus={({ currentTarget }) => {
            // A click has its own position.
            if (cursor.value < 0 && currentTarget.matches(':focus-visible')) cursor.value = 0;
          }}
          onBlur={hide}
          onClick={(event) => open(indexAt(event))}
          onKeyDown={onKeyDown}
        />
        <Cursor row={vms[cursor.value]} index={cursor.value} layout={layout.current} />
      </div>
    </div>
  );
}

interface CursorProps {
  row: FleetRow | undefined;
  index: number;
  layout: { columns: number; cell: number; width: number };
}

/** A frame around the cell under the pointer or the keyboard's cursor, and its VM in words. */
function Cursor({ row, index, layout: { columns, cell, width } }: CursorProps) {
  const x = (index % columns) * cell;
  const y = Math.floor(index / columns) * cell;
  const px = (value: number) => `${value}px`;
  return (
    <>
      {row && <span class="heat-frame" style={{ left: px(x), top: px(y), width: px(cell), height: px(cell) }} />}
      <bdi
        class="heat-tip"
        aria-live="polite"
        // Its own width times this share keeps it within the grid.
        style={{ left: px(x), top: px(y + cell + 3), transform: `translateX(${(-100 * x) / width}%)` }}
      >
        {row &&
          `${printable(row.vm.name).slice(0, MAX_NAME)}: ${row.state}, seen ${ageText(serverNow() - row.seen)} ago`}
      </bdi>
    </>
  );
}

/** CSS pixels of the window below the start of the panel with the grids, when the page is not scrolled. */
function availableHeight(grid: HTMLElement): number {
  const panel = grid.closest<HTMLElement>('.panel')!;
  return innerHeight - panel.offsetTop - PANEL_HEIGHT;
}

/** The largest cell with which the grids of all roles fit. */
function cellSize(sizes: readonly number[], width: number, height: number): number {
  const available = Math.max(MIN_HEIGHT, height) - sizes.length * GRID_MARGIN;
  for (let cell = MAX_CELL; cell > MIN_CELL; cell--) {
    const columns = Math.max(1, Math.floor(width / cell));
    const lines = sizes.reduce((sum, size) => sum + Math.ceil(size / columns), 0);
    if (lines * cell <= available) return cell;
  }
  return MIN_CELL;
}

function drawCell(
  context: CanvasRenderingContext2D,
  state: FleetRow['state'],
  colors: Colors,
  x: number,
  y: number,
  size: number,
): void {
  context.fillStyle = colors[state === 'live' ? 'cell-live' : state];
  const half = Math.ceil(size / 2);
  switch (state) {
    case 'live':
      context.fillRect(x, y, size, size);
      break;
    case 'stale': {
      // Hollow.
      const hole = size > 8 ? half : 2;
      context.fillRect(x, y, size, size);
      context.clearRect(x + (size - hole) / 2, y + (size - hole) / 2, hole, hole);
      break;
    }
    case 'suspect':
      // The left half.
      context.fillRect(x, y, half, size);
      break;
    case 'paused':
      // The lower half.
      context.fillRect(x, y + size - half, size, half);
      break;
    default:
      // A dot.
      context.fillRect(x + (size - half) / 2, y + (size - half) / 2, half, half);
  }
}
