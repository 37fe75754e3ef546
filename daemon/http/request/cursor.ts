/**
 * Cursors of paged lists. A cursor contains the place of the last VM of a page in the order of the list, not an index, so a VM
 * that exists during the entire walk is on exactly one page, whatever happens to other VMs and to the daemon meanwhile.
 */
import { VregError } from '../../../src/protocol/errors.ts';
import { tagOf } from '../../../src/protocol/position.ts';

/** The revision of the registration for the order `registered`, the id for the order `id`. */
export type Place = number | string;

/** @param list the order and the filters of the list, which the request for the next page must repeat */
export function formatCursor(place: Place, list: readonly unknown[]): string {
  return Buffer.from(JSON.stringify([place, hashOf(list)])).toString('base64url');
}

/**
 * @param list as in {@link formatCursor}
 * @throws VregError INVALID if the text is not a cursor, or is one of another list
 */
export function parseCursor(text: string, type: 'number' | 'string', list: readonly unknown[]): Place {
  const [place, hash] = decode(text);
  if (typeof hash !== 'string') throw invalidCursor(`after: "${text}" is not a cursor from the Link header of a list`);
  if (hash === hashOf(list) && typeof place === type) return place as Place;
  throw invalidCursor('after: the cursor belongs to a list with another sort or other filters');
}

function decode(text: string): unknown[] {
  try {
    const value: unknown = JSON.parse(Buffer.from(text, 'base64url').toString());
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

function hashOf(list: readonly unknown[]): string {
  return tagOf(JSON.stringify(list));
}

function invalidCursor(message: string): VregError {
  return new VregError('INVALID', message, {
    field: 'after',
    hint: 'request the URL of rel="next" in the Link header unchanged, or omit after to begin again',
  });
}
