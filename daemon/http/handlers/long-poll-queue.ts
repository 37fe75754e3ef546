/** The queue of long polls. Polls with the same query are checked together. */
import type { Scheduler } from '../../limits/scheduler.ts';
import type { VmRecord } from '../../registry/vm-record.ts';

/** One long poll in the queue. */
export interface Waiter {
  /** Call this after a change. Checks the poll again when the scheduler has time. */
  recheck(): void;
  /** Call this when the time is up. Finishes the poll with the current result when the scheduler has time. */
  expire(): void;
  leave(): void;
}

interface Poll {
  min: number;
  isExpired: boolean;
  finish(found: readonly VmRecord[]): void;
}

/** Long polls with the same query, which share one search. */
interface PollGroup {
  find(): readonly VmRecord[];
  readonly polls: Set<Poll>;
}

/**
 * Batches the checks of long polls. Otherwise each change could make thousands of polls search the registry for the same role.
 */
export class LongPollQueue {
  readonly #scheduler: Scheduler;
  readonly #groups = new Map<string, PollGroup>();
  /** Groups to check again. */
  readonly #due = new Set<PollGroup>();
  /** Groups with an expired poll. They are checked first, because their responses are due. */
  readonly #overdue = new Set<PollGroup>();
  #isRunning = false;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /** Number of long polls in the queue. */
  get count(): number {
    return [...this.#groups.values()].reduce((sum, { polls }) => sum + polls.size, 0);
  }

  /**
   * @param key identifies the query and the read filter
   * @param finish called once, when at least `min` VMs are found or the poll has expired
   */
  join(key: string, find: PollGroup['find'], min: number, finish: Poll['finish']): Waiter {
    const group = this.#groups.get(key) ?? { find, polls: new Set() };
    this.#groups.set(key, group);
    const poll: Poll = { min, isExpired: false, finish };
    group.polls.add(poll);
    return {
      recheck: () => this.#wake(group, this.#due),
      expire: () => {
        poll.isExpired = true;
        this.#wake(group, this.#overdue);
      },
      leave: () => {
        group.polls.delete(poll);
        if (group.polls.size === 0 && this.#groups.get(key) === group) this.#groups.delete(key);
      },
    };
  }

  #wake(group: PollGroup, queue: Set<PollGroup>): void {
    queue.add(group);
    if (this.#isRunning) return;
    this.#isRunning = true;
    // All changes in one turn of the event loop are checked together.
    setImmediate(() => void this.#run());
  }

  async #run(): Promise<void> {
    while (this.#first) await this.#scheduler.run(() => this.#checkGroups());
    this.#isRunning = false;
  }

  #checkGroups(): void {
    for (let group = this.#first; group; group = this.#first) {
      if (!this.#check(group)) return;
      this.#overdue.delete(group);
      this.#due.delete(group);
      if (!this.#scheduler.hasTime()) return;
    }
  }

  get #first(): PollGroup | undefined {
    for (const queue of [this.#overdue, this.#due]) for (const group of queue) return group;
    return undefined;
  }

  /** @returns false if the time slice is used up before all polls of the group are checked */
  #check({ find, polls }: PollGroup): boolean {
    if (polls.size === 0) return true;
    const found = find();
    for (const { min, isExpired, finish } of polls) {
      if (!isExpired && found.length < min) continue;
      finish(found);
      if (!this.#scheduler.hasTime()) return false;
    }
    return true;
  }
}
