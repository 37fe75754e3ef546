import fc from 'fast-check';

/** The surrogates, which are no characters, follow U+D7FF. */
const BELOW = 0xd800;
const SURROGATES = 0x800;

function numberOf(text: unknown): number {
  if (typeof text !== 'string' || [...text].length !== 1) throw new TypeError('not one code point');
  const point = text.codePointAt(0)!;
  return point < BELOW ? point : point - SURROGATES;
}

/**
 * Any code point, as `unit` of a string. It gives the same strings as the unit `binary` of fast-check, which builds a table of all
 * code points. That takes as long as hundreds of requests.
 */
export const codePoint = fc
  .nat(0x10ffff - SURROGATES)
  .map((number) => String.fromCodePoint(number < BELOW ? number : number + SURROGATES), numberOf);
