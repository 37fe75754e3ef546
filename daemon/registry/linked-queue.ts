/**
 * A queue from which any element can be removed, or moved to the end, in constant time: a doubly linked list whose links are
 * fields of its elements. A Map as a queue would be rehashed again and again, because it retains deleted keys until it is full.
 */

/** The links of an element. Only {@link LinkedQueue} modifies them. */
export interface Linked<T extends Linked<T>> {
  /** The queue that contains the element. An element is in at most one queue. */
  queue: LinkedQueue<T> | undefined;
  previous: T | undefined;
  next: T | undefined;
}

export class LinkedQueue<T extends Linked<T>> implements Iterable<T> {
  readonly #kindOf: (element: T) => number;
  #first: T | undefined;
  #last: T | undefined;
  /** Number of elements by their kind. */
  readonly #counts: number[] = [];

  /** @param kindOf a small integer, which must not change for an element while it is in the queue */
  constructor(kindOf: (element: T) => number = () => 0) {
    this.#kindOf = kindOf;
  }

  /** Number of elements of a kind. */
  countOf(kind: number): number {
    return this.#counts[kind] ?? 0;
  }

  #count(element: T, change: 1 | -1): void {
    const kind = this.#kindOf(element);
    this.#counts[kind] = this.countOf(kind) + change;
  }

  get first(): T | undefined {
    return this.#first;
  }

  get last(): T | undefined {
    return this.#last;
  }

  /**
   * Moves an element to the end of this queue, from its place in this or in another queue.
   * @param isLater true for elements at the end that must stay behind it
   */
  push(element: T, isLater?: (other: T) => boolean): void {
    element.queue?.remove(element);
    let previous = this.#last;
    while (isLater && previous && isLater(previous)) previous = previous.previous;
    this.insert(element, previous ? previous.next : this.#first);
  }

  /** Moves an element from its place to that before `next`, another element of this queue; to the end if there is none. */
  insert(element: T, next: T | undefined): void {
    element.queue?.remove(element);
    const previous = next ? next.previous : this.#last;
    element.queue = this;
    element.previous = previous;
    element.next = next;
    if (previous) previous.next = element;
    else this.#first = element;
    if (next) next.previous = element;
    else this.#last = element;
    this.#count(element, 1);
  }

  /** Removes an element of this queue. */
  remove(element: T): void {
    const { previous, next } = element;
    if (previous) previous.next = next;
    else this.#first = next;
    if (next) next.previous = previous;
    else this.#last = previous;
    element.queue = undefined;
    element.previous = undefined;
    element.next = undefined;
    this.#count(element, -1);
  }

  /** Puts an element that is in no queue at the place of an element of this queue. */
  replace(old: T, element: T): void {
    const { next } = old;
    this.remove(old);
    this.insert(element, next);
  }

  /** First element first. The current element may be removed while iterating. */
  *[Symbol.iterator](): Iterator<T> {
    for (let element = this.#first; element; ) {
      const { next } = element;
      yield element;
      element = next;
    }
  }
}
