/** A line of the last hour on a canvas, with its range, and its value under the pointer. */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { hourText } from './times.ts';
import { useCanvas } from './use-canvas.ts';

/** CSS pixels. */
const HEIGHT = 104;
/** The margin, within which the mark of a point fits. */
const RADIUS = 4;
/** Width in CSS pixels that the text about missing data needs. */
const SINCE_WIDTH = 84;
const FONT = '11px system-ui, sans-serif';
const HOUR = 3_600_000;

export interface PlotPoint {
  /** Milliseconds since the epoch. */
  at: number;
  value: number;
}

interface Props {
  title: string;
  points: readonly PlotPoint[];
  /** Milliseconds between two points; a longer distance is a gap. */
  interval: number;
  format(value: number): string;
}

export function LinePlot({ title, points, interval, format }: Props) {
  const container = useRef<HTMLDivElement>(null);
  const pointer = useSignal<number | undefined>(undefined);
  const values = points.map(({ value }) => value);
  const max = Math.max(0, ...values);
  const last = points.at(-1);
  const end = last?.at ?? Date.now();
  const start = end - HOUR;
  // The registry has the data since its own start.
  const first = points[0]?.at ?? end;
  const since = first - start > 2.5 * interval ? `since ${hourText(first)}` : '';
  const near = pointer.value === undefined ? undefined : nearest(points, start + pointer.value * HOUR);
  const canvas = useCanvas(container, (context, width, colors) => ({
    height: HEIGHT,
    draw: () => {
      const x = ({ at }: PlotPoint) => ((at - start) / HOUR) * (width - 2 * RADIUS) + RADIUS;
      const y = ({ value }: PlotPoint) => HEIGHT - RADIUS - (value / (max || 1)) * (HEIGHT - 2 * RADIUS);
      if (since !== '') {
        const missing = x({ at: first, value: 0 });
        context.fillStyle = colors.surface;
        context.fillRect(0, RADIUS, missing, HEIGHT - 2 * RADIUS);
        if (missing > SINCE_WIDTH) {
          context.fillStyle = colors.muted;
          context.font = FONT;
          context.textAlign = 'right';
          context.fillText(since, missing - 6, HEIGHT - 2 * RADIUS - 4);
        }
      }
      context.strokeStyle = colors.border;
      context.lineWidth = 1;
      context.beginPath();
      for (const share of [0, 0.5, 1]) {
        const height = Math.round(HEIGHT - RADIUS - share * (HEIGHT - 2 * RADIUS)) + 0.5;
        context.moveTo(0, height);
        context.lineTo(width, height);
      }
      context.stroke();
      for (const run of runsOf(points, interval)) {
        context.beginPath();
        context.moveTo(x(run[0]!), HEIGHT - RADIUS);
        for (const point of run) context.lineTo(x(point), y(point));
        context.lineTo(x(run.at(-1)!), HEIGHT - RADIUS);
        context.fillStyle = colors['accent-soft'];
        context.fill();
        context.beginPath();
        for (const point of run) context.lineTo(x(point), y(point));
        context.strokeStyle = colors.accent;
        context.lineWidth = 1.5;
        context.lineJoin = 'round';
        context.stroke();
      }
      // A single point has no line.
      const dot = near ?? (points.length === 1 ? last : undefined);
      if (!dot) return;
      context.fillStyle = near ? colors.text : colors.accent;
      context.beginPath();
      context.arc(x(dot), y(dot), RADIUS - 1, 0, 2 * Math.PI);
      context.fill();
    },
  }));
  useEffect(() => canvas.redraw(), [points, near]);
  const shown = near ?? last;
  const minutes = near ? Math.round((end - near.at) / 60_000) : 0;
  const summary = last
    ? `${since === '' ? '' : `${since}, `}now ${format(last.value)}, between ${format(Math.min(...values))} and ${format(max)}`
    : 'no data yet';
  return (
    <figure class="plot">
      <figcaption>
        <span>{title}</span>
        <strong>{shown ? format(shown.value) : '–'}</strong>
        <span class="muted">{near ? `${minutes} min ago` : ''}</span>
      </figcaption>
      <div ref={container}>
        <canvas
          ref={canvas.ref}
          role="img"
          aria-label={`${title} in the last hour: ${summary}`}
          onMouseMove={({ offsetX, currentTarget }) => {
            pointer.value = offsetX / currentTarget.clientWidth;
          }}
          onMouseLeave={() => {
            pointer.value = undefined;
          }}
        />
      </div>
      <div class="plot-axis muted">
        <span>60 min ago</span>
        <span>max {format(max)}</span>
        <span>now</span>
      </div>
    </figure>
  );
}

function nearest(points: readonly PlotPoint[], at: number): PlotPoint | undefined {
  let best: PlotPoint | undefined;
  for (const point of points) if (!best || Math.abs(point.at - at) < Math.abs(best.at - at)) best = point;
  return best;
}

/** Runs of points without a gap, for example while the registry was down. */
function runsOf(points: readonly PlotPoint[], interval: number): PlotPoint[][] {
  const runs: PlotPoint[][] = [];
  for (const point of points) {
    const run = runs.at(-1);
    if (run && point.at - run.at(-1)!.at <= 2.5 * interval) run.push(point);
    else runs.push([point]);
  }
  return runs;
}
