/**
 * Work that takes long, piece by piece: a few milliseconds in each turn of the event loop, whoever asked for it. All others
 * are served between two turns; without it, many who ask for much at once are served in one turn that lasts for seconds.
 */

/** Milliseconds of such work in one turn; a piece that cannot be divided may last longer. */
const TURN = 5;

export class Pieces {
  readonly #waiting: (() => void)[] = [];
  /** When the work of this turn is enough; undefined when none was done yet. */
  #until: number | undefined;
  /** Resolves when the last work of the line is done. */
  #line = Promise.resolve();
  #inLine = 0;

  /** Does the work at once where there is time for it, and else when it has its turn. */
  run<T>(work: () => T): T | Promise<Awaited<T>> {
    if (this.#waiting.length === 0 && this.#hasTime()) return work();
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          resolve(work() as Awaited<T>);
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /** Works of the line that are not done yet. */
  get inLineNow(): number {
    return this.#inLine;
  }

  /**
   * Does works that wait for something, one after the other: what many threads' answers bring is handled in one turn, and
   * those that lead to the next question at once make a turn without end.
   */
  async inLine<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#line;
    let end = () => {};
    this.#line = new Promise((resolve) => (end = () => setImmediate(resolve)));
    this.#inLine++;
    await before;
    try {
      return await work();
    } finally {
      this.#inLine--;
      end();
    }
  }

  /**
   * Those of the items that are to be kept, as {@link Array.filter}.
   * @param isWanted false when nobody waits for it any more; then some may be missing
   */
  async filter<T>(items: readonly T[], keep: (item: T) => boolean, isWanted: () => boolean): Promise<T[]> {
    const kept: T[] = [];
    let at = 0;
    const piece = () => {
      const until = performance.now() + TURN;
      do if (keep(items[at]!)) kept.push(items[at]!);
      while (++at < items.length && performance.now() < until);
    };
    while (at < items.length && isWanted()) await this.run(piece);
    return kept;
  }

  #hasTime(): boolean {
    if (this.#until === undefined) {
      this.#until = performance.now() + TURN;
      setImmediate(() => this.#turn());
    }
    return performance.now() < this.#until;
  }

  #turn(): void {
    this.#until = undefined;
    while (this.#waiting.length > 0 && this.#hasTime()) this.#waiting.shift()!();
  }
}
