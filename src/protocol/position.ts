/**
 * Positions: points in the history of a registry. A revision alone does not identify one, because a registry that was restored
 * from a backup assigns the same revisions again.
 */
import { createHash, hash } from 'node:crypto';

/** A position on the wire is the text `REVISION-TAG`. Clients compare it or send it back, and do not parse it. */
export interface Position {
  /** Revision of the last change. */
  revision: number;
  /** Hash over this change and the tag before it, so that it identifies all changes up to here: 16 hexadecimal digits. */
  tag: string;
}

/**
 * How a position relates to the history of a registry. `same`: it is the current position or an earlier one of this history.
 * `other`: it belongs to another history. `unknown`: it is older than the journal, or malformed.
 */
export type Comparison = 'same' | 'other' | 'unknown';

/** Hexadecimal digits of a tag: 64 bits, so that two histories have the same tag by chance once in 10^19 comparisons. */
const TAG_LENGTH = 16;

/** Hashes lines of text into a tag. */
export class TagHash {
  readonly #hash = createHash('sha256');

  /** @param line without a line break, so that two lists of lines never look the same to the hash */
  add(line: string): this {
    this.#hash.update(`${line}\n`);
    return this;
  }

  get tag(): string {
    return this.#hash.digest('hex').slice(0, TAG_LENGTH);
  }
}

/** Computes the same tag as {@link TagHash}, without an object per hash. @param lines as in {@link TagHash.add} */
export function tagOf(...lines: readonly string[]): string {
  return hash('sha256', `${lines.join('\n')}\n`).slice(0, TAG_LENGTH);
}

/** At most 15 digits, so that every revision is a safe integer. */
const POSITION = /^(0|[1-9]\d{0,14})-([0-9a-f]{16})$/;

export function formatPosition({ revision, tag }: Position): string {
  return `${revision}-${tag}`;
}

/** @returns undefined if the text is not a position */
export function parsePosition(text: string): Position | undefined {
  const [, revision, tag] = POSITION.exec(text) ?? [];
  return tag === undefined ? undefined : { revision: Number(revision), tag };
}
