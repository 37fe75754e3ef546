/** Formats the results of commands as tables, TSV, JSON, YAML or names. No other module does. */
import type { ChalkInstance } from 'chalk';
import type { OutputFormat } from './config/settings.ts';
import { formatAge } from './config/values.ts';
import type { Io } from './io.ts';
import { unsafeInScripts, VregError } from './protocol/errors.ts';
import { escapeControls, maskTokens, printable } from './protocol/redact.ts';
import { looksLikeFlag } from './protocol/vm.ts';

/** A cell: text, a time (RFC 3339; an age on a TTY), or coloured text. The colour only repeats the meaning of the text. */
export type Cell = string | number | { time: string } | { text: string; color: 'green' | 'yellow' | 'red' | 'gray' };

export interface Column<T> {
  title: string;
  cell(row: T): Cell;
  /** Shown with `-o wide` only. */
  wide?: true;
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
  /** Note for stderr if there are no rows and stdout is a terminal. */
  none?: string;
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

/** Prints an answer to stdout. Asynchronous, because each format loads its libraries on demand. */
export async function print<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<void> {
  if (answer.kind === 'rows' && answer.rows.length === 0 && answer.none && io.tty) io.err(`${answer.none}\n`);
  io.out(await format(io, answer, options));
}

/** Formats an answer as text. */
export async function format<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<string> {
  const [name, expression] = splitFormat(options.format);
  switch (name) {
    case 'json':
      return line(escapeControls(JSON.stringify(dataOf(answer), null, 2)));
    case 'ndjson':
      return linesOf(answer);
    case 'yaml':
      return escapeControls((await import('yaml')).stringify(dataOf(answer)));
    case 'jsonpath':
      return formatJsonPath(expression, answer, dataForScripts(io, answer));
    case 'template':
      return printableLines(
        await (await import('./render/expression.ts')).evaluateTemplate(expression, dataForScripts(io, answer)),
      );
    case 'name':
      return answer.kind === 'value' ? valueLine(answer) : namesOf(io, answer);
    default:
      return answer.kind === 'value' ? valueLine(answer) : formatRows(io, answer, options);
  }
}

/**
 * @throws VregError NOT_FOUND if the path matches nothing, and the answer is one item that is not part of a stream. In a value
 * that is no entry, such as the state of the registry, `[*]` of an empty list is not an error.
 */
async function formatJsonPath<T>(expression: string, answer: Answer<T>, data: unknown): Promise<string> {
  const { evaluateJsonPath } = await import('./render/jsonpath.ts');
  const { text, isMatch, selectsMany } = await evaluateJsonPath(expression, data);
  const isRequired = answer.kind === 'value' ? !selectsMany : answer.single === true && answer.continued === undefined;
  if (!isMatch && isRequired) {
    throw new VregError('NOT_FOUND', `the jsonpath "${expression}" matches nothing`, {
      field: 'output',
      hint: 'see the available fields with -o json',
    });
  }
  return unlessEmpty(printableLines(text));
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

/** One name per line. Omits names that a command would mistake for a flag, so that `vreg get $(vreg ls -q)` is safe. */
function namesOf<T>(io: Io, { rows, name }: RowsAnswer<T>): string {
  const names = rows.map((row) => String(name(row)));
  for (const text of names.filter(looksLikeFlag))
    warnOfOmission(io, { message: unsafeInScripts(`"${text}"`, 'a command would take it for a flag') });
  return names
    .filter((text) => !looksLikeFlag(text))
    .map((text) => line(printable(text)))
    .join('');
}

function warnOfOmission(io: Io, { message }: { message: string }): void {
  warn(io, `${message}; it is omitted`);
}

function warn(io: Io, text: string): void {
  io.err(`vreg: ${printable(maskTokens(text))}\n`);
}

function linesOf<T>(answer: Answer<T>): string {
  const data = dataOf(answer);
  return (Array.isArray(data) ? data : [data]).map((item) => line(escapeControls(JSON.stringify(item)))).join('');
}

async function formatRows<T>(io: Io, answer: RowsAnswer<T>, { format, headers, now }: RenderOptions): Promise<string> {
  if (answer.rows.length === 0) return '';
  const columns = answer.columns.filter((column) => !column.wide || format === 'wide');
  const titles = columns.map(({ title }) => title);
  const titled = headers && !answer.continued;
  if (format === 'tsv' || (format === 'wide' && !io.tty)) {
    const rows = rowsForScripts(io, answer).map((row) => columns.map((column) => plain(column.cell(row))));
    return [...(titled ? [titles] : []), ...rows].map((cells) => line(cells.join('\t'))).join('');
  }
  const { Chalk } = await import('chalk');
  const chalk = new Chalk({ level: io.color ? 1 : 0 });
  const rows = (io.tty ? answer.rows : rowsForScripts(io, answer)).map((row) =>
    columns.map((column) => styled(column.cell(row), chalk, io.tty ? now : undefined)),
  );
  return drawTable(titled ? [titles.map((title) => chalk.bold(title)), ...rows] : rows);
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

/** Draws a table without lines, so that it can be searched, copied and cut. */
async function drawTable(rows: string[][]): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const none = Object.fromEntries(
    ['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right']
      .concat(['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'])
      .map((part) => [part, '']),
  );
  const table = new Table({
    chars: { ...none, middle: '   ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  });
  table.push(...rows);
  return `${table.toString().replace(/[ \t]+$/gm, '')}\n`;
}

/** @param now undefined if stdout is not a terminal: times are then printed as RFC 3339 */
function styled(cell: Cell, chalk: ChalkInstance, now: number | undefined): string {
  if (typeof cell !== 'object') return printable(String(cell));
  if ('time' in cell) {
    const age = now === undefined ? Number.NaN : now - Date.parse(cell.time);
    return Number.isNaN(age) ? printable(cell.time) : formatAge(age);
  }
  return chalk[cell.color](printable(cell.text));
}

function plain(cell: Cell): string {
  if (typeof cell !== 'object') return printable(String(cell));
  return printable('time' in cell ? cell.time : cell.text);
}

/** Keeps line breaks and replaces other control characters. */
function valueLine({ text }: ValueAnswer): string {
  return line(text.split('\n').map(printable).join('\n'));
}

function line(text: string): string {
  return `${text}\n`;
}

/** Replaces control characters in the result of an expression, except line breaks and tabs. */
function printableLines(text: string): string {
  return text.replace(/[^\n\t]+/g, printable);
}
