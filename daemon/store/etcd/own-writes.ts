/** The transactions of this replica, which it recognizes by their ids when they arrive. */
export class OwnWrites {
  readonly #replica: string;
  /** Number of the last transaction. */
  #last = 0;
  /** Transactions whose outcome is unknown, with the last one that had an id when they failed. */
  readonly #unknown = new Map<string, number>();

  constructor(replica: string) {
    this.#replica = replica;
  }

  /** @returns the id of a new transaction, which is sent later */
  next(): string {
    this.#last++;
    return `${this.#replica}.${this.#last}`;
  }

  /** The outcome of a transaction is unknown. If it arrives, it counts as that of another replica. */
  failed(write: string): void {
    this.#unknown.set(write, this.#last);
  }

  /** True for a transaction of this replica whose outcome it knows. */
  isOwn(write: string): boolean {
    return replicaOf(write) === this.#replica && !this.#unknown.has(write);
  }

  /**
   * A transaction has arrived. Each one that had failed before this one was sent has an older fence, so it has arrived or never
   * will, and is forgotten.
   */
  arrived(write: string): void {
    if (replicaOf(write) !== this.#replica) return;
    const number = Number(write.slice(this.#replica.length + 1));
    for (const [failed, last] of this.#unknown) if (last < number) this.#unknown.delete(failed);
  }
}

/** The replica of a transaction. */
export function replicaOf(write: string): string {
  return write.split('.')[0]!;
}
