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
  #first: T | undefined;
  #last: T | undefined;

  get first(): T | undefined {
    return this.#first;
  }

  /** Moves an element to the end of this queue, from its place in this or in another queue. */
  push(element: T): void {
    element.queue?.remove(element);
    const last = this.#last;
    element.queue = this;
    element.previous = last;
    if (last) last.next = element;
    else this.#first = element;
    this.#last = element;
  }

  /** Removes an element of this queue. */
  remove(element: T): void {
    const { previous, next } = element;
    if (previous) previous.next = next;
    else this.#first = next;
    if (next) next.previous = previous;
    else this.#last = previous;
    unlink(element);
  }

  /** Puts an element that is in no queue at the place of an element of this queue. */
  replace(old: T, element: T): void {
    const { previous, next } = old;
    element.queue = this;
    element.previous = previous;
    element.next = next;
    if (previous) previous.next = element;
    else this.#first = element;
    if (next) next.previous = element;
    else this.#last = element;
    unlink(old);
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

function unlink<T extends Linked<T>>(element: T): void {
  element.queue = undefined;
  element.previous = undefined;
  element.next = undefined;
}
