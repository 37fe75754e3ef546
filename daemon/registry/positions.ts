/**
 * The current position of the registry, and the tags of the latest changes. A restored or copied registry computes different
 * tags for its next changes, so it can recognize a position that a client received from the other copy.
 */
import { JOURNAL_LENGTH } from '../../src/protocol/events.ts';
import { type Comparison, formatPosition, type Position, parsePosition } from '../../src/protocol/position.ts';

export class Positions {
  /** Tag of each change in the journal, by revision, oldest first. */
  readonly #tags = new Map<number, string>();
  readonly #mayLag: boolean;
  readonly #start: number;
  #latest!: Position;
  #text = '';

  /**
   * @param known positions of the changes in the journal, oldest first; the last one is the current position
   * @param mayLag true if other replicas may have committed changes that have not arrived yet
   * @param start revision before the first change of this history
   */
  constructor(known: readonly Position[], mayLag = false, start = 0) {
    this.#mayLag = mayLag;
    this.#start = start;
    for (const position of known) this.publish(position);
  }

  /** Position of the last durable change. */
  get latest(): Position {
    return this.#latest;
  }

  /** {@link latest} in the text form of the API: `REVISION-TAG`. */
  get current(): string {
    return this.#text;
  }

  /**
   * Advances to the position of a change that has become durable. Called in commit order, except for the position of an earlier change
   * that this replica did not know, which is only remembered.
   */
  publish(position: Position): void {
    this.#tags.set(position.revision, position.tag);
    if (position.revision >= (this.#latest?.revision ?? position.revision)) {
      this.#latest = position;
      this.#text = formatPosition(position);
    }
    while (this.#tags.size > JOURNAL_LENGTH) this.#tags.delete(this.#tags.keys().next().value!);
  }

  /** True if a change at this position may have been committed, but has not arrived yet. */
  isAhead(text: string): boolean {
    const position = this.#mayLag ? parsePosition(text) : undefined;
    return position !== undefined && position.revision > this.#latest.revision;
  }

  /**
   * Compares a position that a client has received with the history of this registry. Reads no disk.
   * @param isCurrent every change that was committed before the client sent the position has arrived
   */
  compare(text: string, isCurrent = !this.#mayLag): Comparison {
    const position = parsePosition(text);
    if (!position) return 'unknown';
    if (position.revision > this.#latest.revision) return isCurrent ? 'other' : 'unknown';
    const tag = this.#tags.get(position.revision);
    if (tag !== undefined) return tag === position.tag ? 'same' : 'other';
    if (position.revision < this.#start) return 'other';
    const oldest = this.#tags.keys().next().value!;
    // The journal has every revision of this history since its oldest one, so the position belongs to another history.
    return position.revision < oldest ? 'unknown' : 'other';
  }
}
