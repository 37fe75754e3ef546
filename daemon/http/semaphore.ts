/** Answers that are held for a while: how many there may be, and how those that wait for VMs look without keeping others waiting. */
import { VregError } from '../../src/protocol/errors.ts';
import type { VmRecord } from '../registry/vm-record.ts';

/** Counts answers that take long: each keeps something for as long as it lasts. */
export class Held {
  readonly #max: number;
  readonly #what: string;
  readonly #hint: string;
  #count = 0;

  /** @param what they are, as the refusal of one more says */
  constructor(max: number, what: string, hint: string) {
    this.#max = max;
    this.#what = what;
    this.#hint = hint;
  }

  /** @returns what gives the place back. @throws VregError TOO_MANY_REQUESTS */
  take(): () => void {
    if (this.#count >= this.#max) {
      const message = `there are ${this.#max} ${this.#what} already, and that is the most`;
      throw new VregError('TOO_MANY_REQUESTS', message, { hint: this.#hint, retryAfter: 5 });
    }
    this.#count++;
    let isTaken = true;
    return () => {
      if (isTaken) this.#count--;
      isTaken = false;
    };
  }
}

/** Those that ask the same look together. */
interface Group {
  look(): readonly VmRecord[];
  readonly waiters: Set<Waiter>;
}

interface Waiter {
  min: number;
  isOver: boolean;
  finish(found: readonly VmRecord[]): void;
}

export interface Watch {
  /** Something has changed: look when there is time. */
  look(): void;
  /** Finish when there is time, whatever is found. */
  over(): void;
  leave(): void;
}

/** Milliseconds of looking after which others have their turn; a look at 100000 VMs takes some. */
const ROUND = 5;

/** Looks in rounds: thousands that wait for one role would else look, one after the other, at each heartbeat in it. */
export class Lookout {
  readonly #groups = new Map<string, Group>();
  readonly #due = new Set<Group>();
  /** Those with a waiter whose time is over: they were promised an answer by now. */
  readonly #overdue = new Set<Group>();
  #isBusy = false;

  /**
   * @param key of the same question, from whomever it comes
   * @param finish called once, when there are so many or when the time is over
   */
  join(key: string, look: Group['look'], min: number, finish: Waiter['finish']): Watch {
    const group = this.#groups.get(key) ?? { look, waiters: new Set() };
    this.#groups.set(key, group);
    const waiter: Waiter = { min, isOver: false, finish };
    group.waiters.add(waiter);
    return {
      look: () => this.#wake(group, this.#due),
      over: () => {
        waiter.isOver = true;
        this.#wake(group, this.#overdue);
      },
      leave: () => {
        group.waiters.delete(waiter);
        if (group.waiters.size === 0 && this.#groups.get(key) === group) this.#groups.delete(key);
      },
    };
  }

  #wake(group: Group, queue: Set<Group>): void {
    queue.add(group);
    if (this.#isBusy) return;
    this.#isBusy = true;
    setImmediate(() => this.#round());
  }

  #round(): void {
    const until = performance.now() + ROUND;
    for (let group = this.#first; group; group = this.#first) {
      if (!this.#serve(group, until)) break;
      this.#overdue.delete(group);
      this.#due.delete(group);
      if (performance.now() > until) break;
    }
    this.#isBusy = this.#first !== undefined;
    if (this.#isBusy) setImmediate(() => this.#round());
  }

  get #first(): Group | undefined {
    for (const queue of [this.#overdue, this.#due]) for (const group of queue) return group;
    return undefined;
  }

  /** @returns false when the round was over before all of them were served */
  #serve({ look, waiters }: Group, until: number): boolean {
    if (waiters.size === 0) return true;
    const found = look();
    for (const { min, isOver, finish } of waiters) {
      if (!isOver && found.length < min) continue;
      finish(found);
      if (performance.now() > until) return false;
    }
    return true;
  }
}
