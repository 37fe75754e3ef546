/** Lists of entries as JSON. A long one is made and sent piece by piece, as its reader takes it. */
import { Readable } from 'node:stream';
import type { Entry } from '../registry/entry.ts';
import type { Pieces } from './pieces.ts';

/** UTF-16 units of a piece: about a millisecond of work; hundreds of entries, so that usual lists are one. */
const PIECE = 262_144;

/**
 * `{vms, count}`. What is declared is as of now, also where it is sent later; liveness is as of when it is sent.
 * @returns text when it is one piece. A long one as text would be kept once for each reader who does not read, and there
 *   are texts that are too long for JavaScript.
 */
export function listOf(entries: readonly Entry[], encode: (entry: Entry) => string, turns: Pieces): string | Readable {
  const pieces = piecesOf(entries, encode);
  const first = pieces.next().value!;
  const second = pieces.next();
  return second.done ? first : Readable.from(paced([first, second.value], pieces, turns));
}

/** Bytes of a list of entries as they are. */
export function sizeOf(entries: readonly Entry[]): number {
  const frame = `{"vms":[],"count":${entries.length}}`.length + Math.max(0, entries.length - 1);
  return entries.reduce((sum, { size }) => sum + size, frame);
}

function* piecesOf(entries: readonly Entry[], encode: (entry: Entry) => string): Generator<string, undefined> {
  let piece = '{"vms":[';
  let separator = '';
  for (const entry of entries) {
    piece += separator + encode(entry);
    separator = ',';
    if (piece.length < PIECE) continue;
    yield piece;
    piece = '';
  }
  yield `${piece}],"count":${entries.length}}`;
}

/** Others have their turn between two pieces. */
async function* paced(
  made: readonly string[],
  more: Iterator<string, undefined>,
  turns: Pieces,
): AsyncGenerator<string> {
  yield* made;
  for (;;) {
    const { value } = await turns.run(() => more.next());
    if (value === undefined) return;
    yield value;
  }
}
