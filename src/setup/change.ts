import { VregError } from '../protocol/errors.ts';

/** The result of an edit of one file. */
export interface Change {
  /** The new content; undefined if there is to be no file. */
  text: string | undefined;
  /** Somebody has edited the part that vreg would write or remove, so it stays as it is. */
  isEdited: boolean;
  /** The reason why the part was left out. */
  obstacle?: VregError | undefined;
}

/** The error for a file that vreg cannot change. */
export function invalid(file: string, why: string): VregError {
  return new VregError('USAGE', `${file} ${why}`, { hint: 'correct it, then run vreg setup again' });
}
