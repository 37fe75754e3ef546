/**
 * The current position of the registry, and the tags of the latest changes. A restored or copied registry computes different
 * tags for its next changes, so it can recognize a position that a client received from the other copy.
 */
import { JOURNAL_LENGTH } from '../../src/protocol/events.ts';
import { type Comparison, formatPosition, type Position, parsePosition } from '../../src/protocol/position.ts';

export class Positions {
  /** Tag of each change in the journal, by revision, oldest first. */
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

  /** {@link latest} in the text form of the API: `REVISION-TAG`. */
  get current(): string {
    return this.#text;
  }

  /** Advances to the position of a change that has become durable. Called in commit order. */
  publish(position: Position): void {
    this.#latest = position;
    this.#text = formatPosition(position);
    this.#tags.set(position.revision, position.tag);
    for (const revision of this.#tags.keys()) {
      if (revision > position.revision - JOURNAL_LENGTH) break;
      this.#tags.delete(revision);
    }
  }

  /** Compares a position that a client has received with the history of this registry. Reads no disk. */
  compare(text: string): Comparison {
    const position = parsePosition(text);
    if (!position) return 'unknown';
    if (position.revision > this.#latest.revision) return 'other';
    const tag = this.#tags.get(position.revision);
    if (tag !== undefined) return tag === position.tag ? 'same' : 'other';
    const oldest = this.#tags.keys().next().value!;
    // The journal has every revision of this history since its oldest one, so the position belongs to another history.
    return position.revision < oldest ? 'unknown' : 'other';
  }
}
