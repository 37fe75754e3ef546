/** Fits the columns of a table to the width of a terminal, and cuts and pads the text of their cells. */

/** Spaces between two columns, as kubectl prints them. */
const GAP = '   ';
/** Terminal columns to which a column may shrink: enough to recognise a value. */
const MIN_WIDTH = 8;
/** The same for the most important column, usually an id: enough for a UUID, because other commands take the whole id. */
const MIN_MAIN_WIDTH = 36;
/** Stands for the rest of a cell, and in the titles for the columns that do not fit. */
const ELLIPSIS = '…';
const ELLIPSIS_WIDTH = 1;
/** Text whose characters are each one column wide: printable ASCII and the ellipsis. */
const SIMPLE_WIDTH = /^[\u0020-\u007e\u2026]*$/;

export interface ColumnSize {
  title: string;
  /** Terminal columns of the longest cell, the title included. */
  width: number;
  /** Columns with a lower priority shrink first; among equals, the rightmost. Default: 0. */
  priority?: number | undefined;
  /** Width to which the column may shrink, instead of {@link MIN_WIDTH} or, for the most important column, {@link MIN_MAIN_WIDTH}. */
  minimum?: number | undefined;
  /** Where a cell that is too long is cut. Default: at its end. */
  cut?: CutAt | undefined;
}

/** The end of an id differs from others as often as its start, so it is cut in the middle. */
export type CutAt = 'middle' | 'end';

/** A column of a table on the terminal. */
export interface FittedColumn {
  /** Terminal columns; undefined for a hidden column. */
  width: number | undefined;
  cut?: CutAt | undefined;
}

type Widths = readonly (number | undefined)[];

/** Terminal columns of a row, with the mark for hidden columns. */
function tableWidth(widths: Widths): number {
  const shown = widths.filter((width) => width !== undefined);
  const cells = shown.length < widths.length ? [...shown, ELLIPSIS_WIDTH] : shown;
  return cells.reduce((sum, width) => sum + width, 0) + GAP.length * (cells.length - 1);
}

/** Rows that cli-table3 draws, a few screens: it takes 1 ms per row, and measures all rows before it draws the first. */
const SMALL_TABLE = 200;
/**
 * True for text of which cli-table3 knows the width. Its older width table measures parts of emoji and combining characters. Most
 * text is ASCII, and the second expression takes half a millisecond to create.
 */
const isSimple = (text: string): boolean =>
  SIMPLE_WIDTH.test(text) || /^[^\p{Extended_Pictographic}\p{Regional_Indicator}\p{M}\p{Cf}]*$/u.test(text);

/** True if {@link drawTable} can draw the rows; otherwise, {@link joinCells} joins each row. */
export function isSmallTable(rows: readonly (readonly string[])[]): boolean {
  return rows.length <= SMALL_TABLE && rows.every((cells) => cells.every(isSimple));
}

/**
 * Draws a table without lines, so that it can be searched, copied and cut.
 * @param rows cells as {@link cutCells} returns them
 */
export async function drawTable(rows: readonly (readonly string[])[]): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const none = Object.fromEntries(
    ['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right']
      .concat(['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'])
      .map((part) => [part, '']),
  );
  const table = new Table({
    chars: { ...none, middle: GAP },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  });
  table.push(...rows.map((cells) => [...cells]));
  return `${table.toString().replace(/[ \t]+$/gm, '')}\n`;
}

/**
 * Prepares the layout of these texts and their parts. string-width takes as long to load as a short command to run, so it is
 * loaded only if a text requires it.
 */
export async function layoutFor(texts: readonly string[]): Promise<Layout> {
  if (texts.every((text) => SIMPLE_WIDTH.test(text))) return new Layout((text) => text.length);
  const { default: stringWidth } = await import('string-width');
  return new Layout(stringWidth);
}

export class Layout {
  /** Columns of the terminal that a text takes. */
  readonly stringWidth: (text: string) => number;

  constructor(stringWidth: (text: string) => number) {
    this.stringWidth = stringWidth;
  }

  /**
   * Fits the columns of a table to a terminal. The column with the lowest priority shrinks first, but not below its title or
   * {@link MIN_WIDTH}, then the next one. If that is not enough, columns are hidden in the same order, and the last one takes what
   * is left.
   * @param available columns of the terminal
   */
  fitColumns(columns: readonly ColumnSize[], available: number): readonly FittedColumn[] {
    const order = columns
      .map(({ priority = 0 }, index) => ({ index, priority }))
      .sort((a, b) => a.priority - b.priority || b.index - a.index)
      .map(({ index }) => index);
    const last = order.at(-1);
    const minimums: (number | undefined)[] = columns.map(({ title, width, minimum }, index) =>
      Math.min(
        width,
        index === last ? (minimum ?? MIN_MAIN_WIDTH) : Math.max(this.stringWidth(title), minimum ?? MIN_WIDTH),
      ),
    );
    for (const index of order) {
      if (index === last || tableWidth(minimums) <= available) break;
      minimums[index] = undefined;
    }
    if (last !== undefined && tableWidth(minimums) > available) minimums[last] = 1;
    const widths = minimums.map((minimum, index) => (minimum === undefined ? undefined : columns[index]!.width));
    for (const index of order) {
      const excess = tableWidth(widths) - available;
      if (excess <= 0) break;
      if (widths[index] !== undefined) widths[index] = Math.max(minimums[index]!, widths[index] - excess);
    }
    return columns.map(({ cut }, index) => ({ width: widths[index], cut }));
  }

  /** Cuts the cells of a row to the widths, and leaves out those of hidden columns. */
  cutCells(
    cells: readonly string[],
    columns: readonly FittedColumn[],
    style: (text: string, index: number) => string,
    mark = '',
  ): string[] {
    const shown = cells.flatMap((cell, index) => {
      const { width, cut } = columns[index]!;
      return width === undefined ? [] : [style(this.cutText(cell, width, cut), index)];
    });
    // cli-table3 requires as many cells in each row as in the titles.
    return hidesAny(columns) ? [...shown, mark] : shown;
  }

  /** The same for the titles. An ellipsis after them shows that columns are hidden. */
  cutTitles(titles: readonly string[], columns: readonly FittedColumn[], style: (text: string) => string): string[] {
    return this.cutCells(titles, columns, style, ELLIPSIS);
  }

  /** Joins the titles of a table. An ellipsis after them shows that columns are hidden. */
  joinTitles(titles: readonly string[], columns: readonly FittedColumn[], style: (text: string) => string): string {
    if (!hidesAny(columns)) return this.joinCells(titles, columns, style);
    const styleOf = (text: string, index: number) => (index < titles.length ? style(text) : text);
    return this.joinCells([...titles, ELLIPSIS], [...columns, { width: ELLIPSIS_WIDTH }], styleOf);
  }

  /** Terminal columns of the longest text. */
  longest(texts: readonly string[]): number {
    return texts.reduce((width, text) => Math.max(width, this.stringWidth(text)), 0);
  }

  /**
   * Cuts a text to `width` columns of the terminal; an ellipsis replaces its end or its middle. Never cuts a character in two.
   */
  cutText(text: string, width: number, at: CutAt = 'end'): string {
    if (this.stringWidth(text) <= width) return text;
    if (width <= 0) return '';
    const left = width - ELLIPSIS_WIDTH;
    const after = at === 'middle' ? Math.floor(left / 2) : 0;
    const before = left - after;
    // Splitting a text into characters takes 100 times as long.
    if (SIMPLE_WIDTH.test(text)) return text.slice(0, before) + ELLIPSIS + text.slice(text.length - after);
    const characters = charactersOf(text);
    return (
      this.#takeWidth(characters, before).join('') +
      ELLIPSIS +
      this.#takeWidth(characters.reverse(), after).reverse().join('')
    );
  }

  /** The first characters that are at most `width` columns wide together. */
  #takeWidth(characters: readonly string[], width: number): string[] {
    let left = width;
    const end = characters.findIndex((character) => {
      left -= this.stringWidth(character);
      return left < 0;
    });
    return characters.slice(0, end < 0 ? undefined : end);
  }

  /** Adds spaces up to `width` columns of the terminal. */
  padText(text: string, width: number): string {
    return text + ' '.repeat(Math.max(0, width - this.stringWidth(text)));
  }

  /**
   * Wraps a text between words.
   * @param width of a line in columns of the terminal, greater than 0
   * @param longWords `keep` leaves a word that is longer than a line to the terminal, so that it can be copied
   */
  wrapText(text: string, width: number, longWords: 'split' | 'keep' = 'split'): string[] {
    const lines: string[] = [];
    let line = '';
    for (const word of text.split(' ')) {
      const joined = line === '' ? word : `${line} ${word}`;
      if (this.stringWidth(joined) <= width) {
        line = joined;
        continue;
      }
      if (line !== '') lines.push(line);
      line = '';
      if (longWords === 'keep') {
        line = word;
        continue;
      }
      for (const character of charactersOf(word)) {
        if (this.stringWidth(line + character) > width && line !== '') {
          lines.push(line);
          line = '';
        }
        line += character;
      }
    }
    return [...lines, line];
  }

  /**
   * Joins the cells of a row.
   * @param columns as {@link fitColumns} returns them
   * @param style adds colour to the text of a cell, which changes no width
   */
  joinCells(
    cells: readonly string[],
    columns: readonly FittedColumn[],
    style: (text: string, index: number) => string = (text) => text,
  ): string {
    let row = '';
    let spaces = '';
    for (const [index, cell] of cells.entries()) {
      const { width, cut } = columns[index]!;
      if (width === undefined) continue;
      const text = this.cutText(cell, width, cut);
      // Spaces before the next cell only, so that no line ends with a space.
      if (text !== '') {
        row += spaces + style(text, index);
        spaces = '';
      }
      // Without the ellipsis the text is usually ASCII, which is measured much faster.
      const isCut = text !== cell && text !== '';
      const textWidth = isCut ? this.stringWidth(text.replace(ELLIPSIS, '')) + ELLIPSIS_WIDTH : this.stringWidth(text);
      spaces += ' '.repeat(width - textWidth) + GAP;
    }
    return row;
  }
}

function hidesAny(columns: readonly FittedColumn[]): boolean {
  return columns.some(({ width }) => width === undefined);
}

/** Splits a text into characters as a reader sees them. */
function charactersOf(text: string): string[] {
  if (SIMPLE_WIDTH.test(text)) return text.split('');
  return [...new Intl.Segmenter().segment(text)].map(({ segment }) => segment);
}
