/** Virtual time: runs events in order, and all promises that one event settles before the next event. */
import { setImmediate } from 'node:timers/promises';

interface Event {
  /** Milliseconds. */
  at: number;
  /** Events at the same time run in the order in which they were scheduled. */
  order: number;
  run: (() => void) | undefined;
}

export interface Timer {
  readonly at: number;
  cancel(): void;
}

export class VirtualTime {
  now = 0;
  readonly #heap: Event[] = [];
  #order = 0;

  after(ms: number, run: () => void): Timer {
    const event: Event = { at: this.now + Math.max(0, ms), order: this.#order++, run };
    this.#push(event);
    return {
      at: event.at,
      cancel: () => {
        event.run = undefined;
      },
    };
  }

  every(ms: number, run: () => void): void {
    this.after(ms, () => {
      run();
      this.every(ms, run);
    });
  }

  /** Runs all events up to a time. */
  async until(end: number): Promise<void> {
    for (let next = this.#heap[0]; next && next.at <= end; next = this.#heap[0]) {
      this.#pop();
      if (!next.run) continue;
      this.now = next.at;
      next.run();
      // Let settled promises run until they wait for a timer again.
      await setImmediate();
    }
    this.now = end;
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let index = heap.push(event) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (isBefore(heap[parent]!, event)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (isBefore(last, heap[child]!)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** A reproducible sequence of random numbers (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
