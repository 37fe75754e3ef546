/** Milliseconds of scheduled work per turn of the event loop. Short requests are served between two turns. */
const SLICE = 5;

/**
 * A cooperative scheduler. It runs long work in slices of a few milliseconds, between which the event loop serves other
 * requests. Otherwise, many long requests that arrive together could block the event loop for seconds.
 */
export class Scheduler {
  readonly #queue: (() => void)[] = [];
  /** End of the current turn's slice, from `performance.now()`; undefined if no job has run in this turn. */
  #sliceEnd: number | undefined;
  /** Resolves when the last job in {@link serialize} is done. */
  #tail = Promise.resolve();
  #serialized = 0;

  /** Runs a job immediately if this turn has time left, otherwise after the jobs that are already queued. */
  run<T>(job: () => T): T | Promise<Awaited<T>> {
    if (this.#queue.length === 0 && this.hasTime()) return job();
    return new Promise((resolve, reject) => {
      this.#queue.push(() => {
        try {
          resolve(job() as Awaited<T>);
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /**
   * Repeats a step until it returns false, in each turn as often as the slice allows.
   * @param isWanted returns false to end the work early, because the client has left
   */
  async repeat(step: () => boolean, isWanted: () => boolean = () => true): Promise<void> {
    let more = true;
    const slice = () => {
      do more = step();
      while (more && this.hasTime());
    };
    while (more && isWanted()) await this.run(slice);
  }

  /** Like {@link Array.filter}, in slices. If `isWanted` becomes false, the result is incomplete. */
  async filter<T>(items: readonly T[], predicate: (item: T) => boolean, isWanted?: () => boolean): Promise<T[]> {
    const found: T[] = [];
    if (items.length === 0) return found;
    let at = 0;
    const step = () => {
      const item = items[at++]!;
      if (predicate(item)) found.push(item);
      return at < items.length;
    };
    await this.repeat(step, isWanted);
    return found;
  }

  /** Calls `act` with each item, in slices. */
  async forEach<T>(items: readonly T[], act: (item: T) => void): Promise<void> {
    await this.filter(items, (item) => {
      act(item);
      return false;
    });
  }

  /** Number of jobs in {@link serialize} that are not done yet. */
  get serialized(): number {
    return this.#serialized;
  }

  /**
   * Runs asynchronous jobs one at a time, at most one per turn of the event loop. The results of many worker calls can arrive
   * in one turn; if each of them started the next job immediately, that turn would not end.
   */
  async serialize<T>(job: () => Promise<T>): Promise<T> {
    const previous = this.#tail;
    let finish = () => {};
    this.#tail = new Promise((resolve) => (finish = () => setImmediate(resolve)));
    this.#serialized++;
    await previous;
    try {
      return await job();
    } finally {
      this.#serialized--;
      finish();
    }
  }

  /** True while the current slice has time left. A job that runs in steps must stop when it becomes false. */
  hasTime(): boolean {
    if (this.#sliceEnd === undefined) {
      this.#sliceEnd = performance.now() + SLICE;
      setImmediate(() => this.#turn());
    }
    return performance.now() < this.#sliceEnd;
  }

  #turn(): void {
    this.#sliceEnd = undefined;
    while (this.#queue.length > 0 && this.hasTime()) this.#queue.shift()!();
  }
}
