/** A canvas that is as wide as its container, sharp on any screen, and that follows the colour scheme. */
import { useSignalEffect } from '@preact/signals';
import type { RefObject } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { theme } from './theme.tsx';

export type Colors = Readonly<Record<(typeof COLORS)[number], string>>;

/** @returns the height that the drawing needs, and the function that draws it */
export type Plan = (
  context: CanvasRenderingContext2D,
  width: number,
  colors: Colors,
) => { height: number; draw(): void };

/** Names of the CSS variables that drawings use, without `--`. */
const COLORS = [
  'cell-live',
  'suspect',
  'stale',
  'paused',
  'stopped',
  'text',
  'muted',
  'border',
  'surface',
  'accent',
  'accent-soft',
] as const;

export function useCanvas(
  container: RefObject<HTMLElement | null>,
  plan: Plan,
): { ref: RefObject<HTMLCanvasElement | null>; redraw(): void } {
  const ref = useRef<HTMLCanvasElement>(null);
  const latest = useRef(plan);
  latest.current = plan;
  const redraw = () => {
    const canvas = ref.current;
    const width = container.current?.clientWidth ?? 0;
    if (!canvas || width === 0) return;
    const context = canvas.getContext('2d')!;
    const { height, draw } = latest.current(context, width, readColors(canvas, getComputedStyle(canvas)));
    const scale = devicePixelRatio;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    draw();
  };
  useEffect(() => {
    const observer = new ResizeObserver(redraw);
    observer.observe(container.current!);
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    scheme.addEventListener('change', redraw);
    addEventListener('resize', redraw);
    return () => {
      observer.disconnect();
      removeEventListener('resize', redraw);
      scheme.removeEventListener('change', redraw);
    };
  }, []);
  useSignalEffect(() => {
    theme.value;
    redraw();
  });
  return { ref, redraw };
}

/** The browser resolves the colours of properties for the theme, but not those of variables. */
function readColors({ style }: HTMLCanvasElement, computed: CSSStyleDeclaration): Colors {
  const colors = COLORS.map((name) => {
    style.color = `var(--${name})`;
    return [name, computed.color];
  });
  return Object.fromEntries(colors) as Colors;
}
