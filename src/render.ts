/** Formats the results of commands as tables, TSV, JSON, YAML or names. No other module does. */
import type { ChalkInstance } from 'chalk';
import type { OutputFormat } from './config/settings.ts';
import { formatAge } from './config/values.ts';
import type { Io } from './io.ts';
import { unsafeInScripts, VregError } from './protocol/errors.ts';
import { escapeControls, hasControls, maskTokens, printable } from './protocol/redact.ts';
import { looksLikeFlag } from './protocol/vm.ts';

/**
 * A cell: text, a time (RFC 3339; an age on a TTY), or coloured text. The colour only repeats the meaning of the text. A missing
 * value is printed as `-`, because another registry may omit any field.
 */
export type Cell = string | number | undefined | { time: string | undefined } | { text: string; color: Color };

export type Color = 'green' | 'yellow' | 'red' | 'gray';

export interface Column<T> {
  title: string;
  cell(row: T): Cell;
  /** Shown with `-o wide` only. */
  wide?: true;
  /** On a terminal, columns with a lower priority shrink first; among equals, the rightmost. Default: 0. */
  priority?: number;
  /** Width to which the column may shrink on a terminal, if its values need more than most. */
  minimum?: number;
  /** The same with `-o wide`, if it differs. */
  wideMinimum?: number;
  /** Where a cell that is too long is cut on a terminal. Default: at its end. */
  cut?: 'middle' | 'end';
  /** Width on a terminal if the rows are printed one by one; by default, that of the longest cell. */
  width?: number;
}

/** The result of a command: rows of one kind, or a single value. */
export type Answer<T = unknown> = RowsAnswer<T> | ValueAnswer;

export interface RowsAnswer<T> {
  kind: 'rows';
  rows: readonly T[];
  columns: readonly Column<T>[];
  /** Text of a row for `-o name`. */
  name(row: T): string;
  /** The answer is one item: JSON and YAML print the item instead of a list. */
  single?: boolean;
  /** Set for the parts of a stream: false for the first, true for the others, which are printed without column titles. */
  continued?: boolean;
  /** Value of a row for JSON and YAML; by default the row itself. */
  data?(row: T): unknown;
  /**
   * Prepares a row for the output that scripts use: TSV, jsonpath, templates, and tables outside of a terminal. If there is a
   * fault, a warning is printed. TSV and tables then omit the row if the fault is in the id, and show the returned row
   * otherwise; jsonpath and templates always omit it.
   */
  forScripts?(row: T): { row: T; fault: VregError | undefined };
  /**
   * Prints the rows as a list instead of a table: aligned labels, then the text, and under it `detail`. Both wrap on a terminal.
   */
  list?(row: T): ListItem;
  /** Note for stderr if there are no rows and stdout is a terminal. */
  none?: string;
}

export interface ListItem {
  labels: readonly Cell[];
  text: string;
  detail: string | undefined;
}

export interface ValueAnswer {
  kind: 'value';
  /** Text for table, TSV and name: usually one line, for scripts. */
  text: string;
  /** Value for JSON and YAML. */
  data: unknown;
  /** The value as jsonpath and templates may get it, and the faults of omitted parts; by default `data`. */
  forScripts?(): { data: unknown; faults: readonly VregError[] };
}

export interface RenderOptions {
  format: OutputFormat;
  headers: boolean;
  /** Milliseconds since the epoch, from which ages are computed. */
  now: number;
}

/** Prints an answer to stdout, a part at a time, so that the output of many rows starts at once. */
export async function print<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<void> {
  if (answer.kind === 'rows' && answer.rows.length === 0 && answer.none && io.tty) io.err(`${answer.none}\n`);
  for await (const part of parts(io, answer, options)) io.out(part);
}

/** Formats an answer as text. */
export async function format<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<string> {
  let text = '';
  for await (const part of parts(io, answer, options)) text += part;
  return text;
}

/** The text of an answer in parts. Asynchronous, because each format loads its libraries on demand. */
async function* parts<T>(io: Io, answer: Answer<T>, options: RenderOptions): AsyncGenerator<string> {
  const [name, expression] = splitFormat(options.format);
  switch (name) {
    case 'json':
      yield line(escapeControls(JSON.stringify(dataOf(answer), null, 2)));
      break;
    case 'ndjson':
      yield* linesOf(answer);
      break;
    case 'yaml':
      yield* yamlOf(answer);
      break;
    case 'jsonpath':
      yield await formatJsonPath(io, expression, answer, dataForScripts(io, answer));
      break;
    case 'template': {
      const { evaluateTemplate } = await import('./render/expression.ts');
      for await (const text of evaluateTemplate(expression, dataForScripts(io, answer))) yield safeLines(io, text);
      break;
    }
    case 'name':
      yield answer.kind === 'value' ? valueLine(io, answer) : namesOf(io, answer);
      break;
    default:
      if (answer.kind === 'value') yield valueLine(io, answer);
      else yield* partsOfRows(io, answer, options);
  }
}

/**
 * @throws VregError NOT_FOUND if the path matches nothing, and the answer is one item that is not part of a stream. In a value
 * that is no entry, such as the state of the registry, `[*]` of an empty list is not an error.
 */
async function formatJsonPath<T>(io: Io, expression: string, answer: Answer<T>, data: unknown): Promise<string> {
  const { evaluateJsonPath } = await import('./render/jsonpath.ts');
  const { text, isMatch, selectsMany } = await evaluateJsonPath(expression, data);
  const isRequired = answer.kind === 'value' ? !selectsMany : answer.single === true && answer.continued === undefined;
  if (!isMatch && isRequired) {
    throw new VregError('NOT_FOUND', `the jsonpath "${expression}" matches nothing`, {
      field: 'output',
      hint: 'see the available fields with -o json',
    });
  }
  return unlessEmpty(safeLines(io, text));
}

/** Splits `jsonpath=$.id` into name and expression. */
function splitFormat(format: OutputFormat): [name: string, expression: string] {
  const at = format.indexOf('=');
  return at < 0 ? [format, ''] : [format.slice(0, at), format.slice(at + 1)];
}

function unlessEmpty(text: string): string {
  return text === '' || text.endsWith('\n') ? text : line(text);
}

function dataOf<T>(answer: Answer<T>): unknown {
  if (answer.kind === 'value') return answer.data;
  const items = answer.rows.map((row) => (answer.data ? answer.data(row) : row));
  return answer.single ? items[0] : items;
}

/** The data for an expression, without the rows that scripts must not get. @throws VregError if that is the only row */
function dataForScripts<T>(io: Io, answer: Answer<T>): unknown {
  if (!answer.forScripts) return dataOf(answer);
  if (answer.kind === 'value') {
    const { data, faults } = answer.forScripts();
    for (const fault of faults) warnOfOmission(io, fault);
    return data;
  }
  const rows: T[] = [];
  for (const { row, fault } of answer.rows.map(answer.forScripts)) {
    if (!fault) rows.push(row);
    else if (answer.single) throw fault;
    else warnOfOmission(io, fault);
  }
  return dataOf({ ...answer, rows });
}

/**
 * One name per line. Omits names that a command would mistake for a flag, and in a pipe also names with control characters, so
 * that `vreg get $(vreg ls -q)` is safe.
 */
function namesOf<T>(io: Io, { rows, name }: RowsAnswer<T>): string {
  return rows
    .map((row) => String(name(row)))
    .filter((text) => {
      const reason = looksLikeFlag(text)
        ? 'a command would take it for a flag'
        : !io.tty && hasControls(text)
          ? 'it contains control characters'
          : undefined;
      if (reason !== undefined) warnOfOmission(io, { message: unsafeInScripts(`"${text}"`, reason) });
      return reason === undefined;
    })
    .map((text) => line(safe(io, text)))
    .join('');
}

function warnOfOmission(io: Io, { message }: { message: string }): void {
  warn(io, `${message}; it is omitted`);
}

function warn(io: Io, text: string): void {
  io.err(`vreg: ${printable(maskTokens(text))}\n`);
}

function* linesOf<T>(answer: Answer<T>): Generator<string> {
  const data = dataOf(answer);
  for (const items of chunks(Array.isArray(data) ? data : [data]))
    yield items.map((item) => line(escapeControls(JSON.stringify(item)))).join('');
}

/** Spaces between labels and text of a list, and before its details. */
const LIST_GAP = '  ';
/** Columns of the text of a list on a narrow terminal, which then wraps lines itself. */
const MIN_TEXT = 10;

/** Items in each part of the output, so that it starts at once: formatting takes up to half a millisecond per item (YAML). */
const ITEMS = 100;

async function* yamlOf<T>(answer: Answer<T>): AsyncGenerator<string> {
  const { stringify } = await import('yaml');
  // A plain scalar has no escapes, so a text with characters to escape requires quotes.
  const toYaml = (value: unknown): string => {
    const text = stringify(value);
    if (text === escapeControls(text)) return text;
    return escapeControls(stringify(value, { defaultStringType: 'QUOTE_DOUBLE' }));
  };
  const data = dataOf(answer);
  if (!Array.isArray(data) || data.length === 0) yield toYaml(data);
  else for (const items of chunks(data)) yield toYaml(items);
}

async function* partsOfRows<T>(
  io: Io,
  answer: RowsAnswer<T>,
  { format, headers, now }: RenderOptions,
): AsyncGenerator<string> {
  if (answer.rows.length === 0) return;
  const columns = answer.columns.filter((column) => !column.wide || format === 'wide');
  const titles = columns.map(({ title }) => title);
  const titled = headers && !answer.continued;
  if (format === 'tsv' || (format === 'wide' && !io.tty)) {
    if (titled) yield line(titles.join('\t'));
    for (const rows of chunks(answer.rows)) {
      const cells = rowsForScripts(io, { ...answer, rows }).map((row) =>
        columns.map(({ cell }) => safe(io, textOf(cell(row)))),
      );
      yield cells.map((row) => line(row.join('\t'))).join('');
    }
    return;
  }
  const [{ Chalk }, { drawTable, isSmallTable, layoutFor }] = await Promise.all([
    import('chalk'),
    import('./render/layout.ts'),
  ]);
  const chalk = new Chalk({ level: io.color ? 1 : 0 });
  if (answer.list) {
    yield await listOf(io, answer.rows.map(answer.list), chalk, layoutFor);
    return;
  }
  const rows = (io.tty ? answer.rows : rowsForScripts(io, answer)).map((row) =>
    columns.map(({ cell }): StyledText => styledText(cell(row), io.tty ? now : undefined)),
  );
  const layout = await layoutFor([...titles, ...rows.flatMap((cells) => cells.map(({ text }) => text))]);
  const sizes = columns.map(({ title, priority, minimum, wideMinimum, width, cut }, index) => ({
    title,
    priority,
    minimum: format === 'wide' ? (wideMinimum ?? minimum) : minimum,
    cut,
    width:
      (io.tty ? width : undefined) ??
      layout.longest([...(titled ? [title] : []), ...rows.map((cells) => cells[index]!.text)]),
  }));
  const fitted = io.tty ? layout.fitColumns(sizes, io.width) : sizes;
  const bold = (title: string) => chalk.bold(title);
  const styleOf = (cells: readonly StyledText[]) => (text: string, column: number) => {
    const { color } = cells[column]!;
    return color === undefined ? text : chalk[color](text);
  };
  const textsOf = (cells: readonly StyledText[]) => cells.map(({ text }) => text);
  if (answer.continued === undefined && isSmallTable(rows.map(textsOf))) {
    const table = rows.map((cells) => layout.cutCells(textsOf(cells), fitted, styleOf(cells)));
    yield await drawTable(titled ? [layout.cutTitles(titles, fitted, bold), ...table] : table);
    return;
  }
  if (titled) yield line(layout.joinTitles(titles, fitted, bold));
  for (const part of chunks(rows))
    yield part.map((cells) => line(layout.joinCells(textsOf(cells), fitted, styleOf(cells)))).join('');
}

/** Formats a list, see {@link RowsAnswer.list}. */
async function listOf(
  io: Io,
  items: readonly ListItem[],
  chalk: ChalkInstance,
  layoutFor: typeof import('./render/layout.ts').layoutFor,
): Promise<string> {
  const labelled = items.map((item) => ({ ...item, labels: item.labels.map((cell) => styledText(cell, undefined)) }));
  const texts = labelled.flatMap(({ labels, text, detail = '' }) => [
    ...labels.map((label) => label.text),
    text,
    detail,
  ]);
  const layout = await layoutFor(texts.map(printable));
  const widths = (labelled[0]?.labels ?? []).map((_, index) =>
    layout.longest(labelled.map(({ labels }) => labels[index]!.text)),
  );
  const indent = widths.reduce((sum, width) => sum + width + LIST_GAP.length, 0);
  const available = io.tty ? Math.max(MIN_TEXT, io.width - indent - LIST_GAP.length) : Number.POSITIVE_INFINITY;
  return labelled
    .map(({ labels, text, detail }) => {
      const before = labels
        .map(({ text, color }, index) => {
          const label = layout.padText(text, widths[index]!) + LIST_GAP;
          return color === undefined ? label : chalk[color](label);
        })
        .join('');
      const lines = [
        ...layout.wrapText(printable(text), available),
        ...(detail === undefined ? [] : layout.wrapText(printable(detail), available).map((part) => LIST_GAP + part)),
      ];
      return lines.map((part, index) => line((index === 0 ? before : ' '.repeat(indent)) + part)).join('');
    })
    .join('');
}

interface StyledText {
  text: string;
  color: Color | undefined;
}

function styledText(cell: Cell, now: number | undefined): StyledText {
  const color = typeof cell === 'object' && cell !== null && 'color' in cell ? cell.color : undefined;
  return { text: printable(textOf(cell, now)), color };
}

function* chunks<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < items.length; from += ITEMS) yield items.slice(from, from + ITEMS);
}

/** The rows of a table for scripts, without those whose id they must not get. */
function rowsForScripts<T>(io: Io, { rows, forScripts }: RowsAnswer<T>): readonly T[] {
  if (!forScripts) return rows;
  return rows.map(forScripts).flatMap(({ row, fault }) => {
    if (fault?.field === 'id') warnOfOmission(io, fault);
    else if (fault) warn(io, fault.message);
    return fault?.field === 'id' ? [] : [row];
  });
}

/** @param now undefined if stdout is not a terminal: times are then printed as RFC 3339 */
function textOf(cell: Cell, now?: number): string {
  if (cell === undefined || cell === null) return '-';
  if (typeof cell !== 'object') return String(cell);
  if ('text' in cell) return String(cell.text ?? '-');
  const age = now === undefined ? Number.NaN : now - Date.parse(String(cell.time));
  return Number.isNaN(age) ? String(cell.time ?? '-') : formatAge(age);
}

/**
 * Makes text safe to print. In a pipe, a script needs the exact value, for example of an id with characters that change the
 * writing direction; control characters are replaced everywhere, because they could end a line.
 */
function safe(io: Io, text: string): string {
  return io.tty || hasControls(text) ? printable(text) : text;
}

/** Keeps line breaks and replaces other control characters. */
function valueLine(io: Io, { text }: ValueAnswer): string {
  const lines = text.split('\n').map((part) => safe(io, part));
  return line(lines.join('\n'));
}

function line(text: string): string {
  return `${text}\n`;
}

/** Replaces control characters in the result of an expression, except line breaks and tabs. */
function safeLines(io: Io, text: string): string {
  return text.replace(/[^\n\t]+/g, (part) => safe(io, part));
}
