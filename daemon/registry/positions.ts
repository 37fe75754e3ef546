/**
 * The position of the registry, and the comparison with a position that a client has seen. A registry that was restored from a
 * backup or copied gives different tags to its next changes, so it recognizes positions that belong to the other history.
 */
import { JOURNAL_LENGTH } from '../../src/protocol/events.ts';
import { type Comparison, formatPosition, type Position, parsePosition } from '../../src/protocol/position.ts';

export class Positions {
  /** Tags of the changes in the journal by revision, oldest first. */
  readonly #tags = new Map<number, string>();
  #latest!: Position;
  #text = '';

  /** @param known positions of the changes in the journal, oldest first; the last one is the current position */
  constructor(known: readonly Position[]) {
    for (const position of known) this.publish(position);
  }

  /** Position of the last durable change. */
  get latest(): Position {
    return this.#latest;
  }

  /** {@link latest} as text, as in the API. */
  get current(): string {
    return this.#text;
  }

  /** Moves to the position of a change that has become durable. Called in the order of the commits. */
  publish(position: Position): void {
    this.#latest = position;
    this.#text = formatPosition(position);
    this.#tags.set(position.revision, position.tag);
    for (const revision of this.#tags.keys()) {
      if (revision > position.revision - JOURNAL_LENGTH) break;
      this.#tags.delete(revision);
    }
  }

  /** Compares a position that a client has seen, from memory. */
  compare(text: string): Comparison {
    const position = parsePosition(text);
    if (!position) return 'unknown';
    if (position.revision > this.#latest.revision) return 'other';
    const tag = this.#tags.get(position.revision);
    if (tag !== undefined) return tag === position.tag ? 'same' : 'other';
    const oldest = this.#tags.keys().next().value!;
    // The journal contains all revisions of this history within its range, so the position belongs to another history.
    return position.revision < oldest ? 'unknown' : 'other';
  }
}
