/** Lists of entries as JSON. A long one is made and sent piece by piece, as its reader takes it. */
import type { Readable } from 'node:stream';
import type { VmRecord } from '../registry/vm-record.ts';
import { type Account, asTaken } from './response-budget.ts';
import type { Pieces } from './scheduler.ts';

/** UTF-16 units of a piece: hundreds of entries, so that usual lists are one; little, since each slow reader keeps one. */
const PIECE = 65_536;
/** Bytes that an entry takes in a list of them. */
const REFERENCE = 8;

/**
 * `{vms, count}`. What is declared is as of now, also where it is sent later; liveness is as of when it is sent.
 * @param open an account of what it keeps, where it is more than one piece
 * @returns text when it is one piece. A long one as text would be kept once for each reader who does not read, and there
 *   are texts that are too long for JavaScript.
 * @throws VregError TOO_MANY_REQUESTS
 */
export function listOf(
  entries: readonly VmRecord[],
  encode: (entry: VmRecord) => string,
  turns: Pieces,
  open: () => Account,
): string | Readable {
  const pieces = piecesOf(entries, encode);
  const { value: first, done } = pieces.next();
  if (done) return first;
  const account = open();
  account.keep(first.length);
  account.share(entries, entries.length * REFERENCE);
  let made: string | undefined = first;
  let isOver = false;
  return asTaken(async () => {
    if (isOver) return undefined;
    const text = made;
    made = undefined;
    if (text !== undefined) return text;
    // Others have their turn between two pieces.
    const next = await turns.run(() => pieces.next());
    isOver = next.done === true;
    return next.value;
  }, account);
}

/** Bytes of a list of entries as they are. */
export function sizeOf(entries: readonly VmRecord[]): number {
  const frame = `{"vms":[],"count":${entries.length}}`.length + Math.max(0, entries.length - 1);
  return entries.reduce((sum, { size }) => sum + size, frame);
}

/** The last piece is what it returns. */
function* piecesOf(entries: readonly VmRecord[], encode: (entry: VmRecord) => string): Generator<string, string> {
  let piece = '{"vms":[';
  let separator = '';
  for (const entry of entries) {
    piece += separator + encode(entry);
    separator = ',';
    if (piece.length < PIECE) continue;
    yield piece;
    piece = '';
  }
  return `${piece}],"count":${entries.length}}`;
}
