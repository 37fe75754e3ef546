/** Answers become text here and nowhere else: tables, TSV, JSON, YAML, names. */

import type { ChalkInstance } from 'chalk';
import type { OutputFormat } from './config/settings.ts';
import { formatAge } from './config/values.ts';
import type { Io } from './io.ts';
import { escapeControls, printable } from './protocol/redact.ts';

/** A cell: text, a moment (RFC 3339; an age on a TTY), or text with a colour that only repeats what the text says. */
export type Cell = string | number | { time: string } | { text: string; color: 'green' | 'yellow' | 'red' | 'gray' };

export interface Column<T> {
  title: string;
  cell(row: T): Cell;
  /** Shown with `-o wide` only. */
  wide?: true;
}

/** What a command answers with: rows of one kind, or one value. */
export type Answer<T = unknown> = RowsAnswer<T> | ValueAnswer;

export interface RowsAnswer<T> {
  kind: 'rows';
  rows: readonly T[];
  columns: readonly Column<T>[];
  /** What `-o name` prints of a row. */
  name(row: T): string;
  /** One thing was asked for: JSON and YAML print it, not a list of it. */
  single?: boolean;
  /** More rows of a list that is already begun: no titles again. */
  continued?: boolean;
  /** What JSON and YAML print of a row, where it is not the row itself. */
  data?(row: T): unknown;
  /** Said on stderr when there are no rows and a person may wonder. */
  none?: string;
}

export interface ValueAnswer {
  kind: 'value';
  /** What a script takes: one line (or more), in table, TSV and name. */
  text: string;
  /** What JSON and YAML print. */
  data: unknown;
}

export interface RenderOptions {
  format: OutputFormat;
  headers: boolean;
  /** Milliseconds since the epoch, for ages. */
  now: number;
}

/** Prints an answer to stdout. Libraries are loaded by the formats that need them, so it is awaited. */
export async function print<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<void> {
  if (answer.kind === 'rows' && answer.rows.length === 0 && answer.none && io.tty) io.err(`${answer.none}\n`);
  io.out(await format(io, answer, options));
}

/** The text of an answer. */
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
      return unlessEmpty(
        printableLines(await (await import('./render/expression.ts')).evaluateJsonPath(expression, dataOf(answer))),
      );
    case 'template':
      return printableLines(
        await (await import('./render/expression.ts')).evaluateTemplate(expression, dataOf(answer)),
      );
    case 'name':
      return answer.kind === 'value'
        ? valueLine(answer)
        : answer.rows.map((row) => line(printable(answer.name(row)))).join('');
    default:
      return answer.kind === 'value' ? valueLine(answer) : formatRows(io, answer, options);
  }
}

/** `jsonpath=$.id` into its two parts. */
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
    const rows = answer.rows.map((row) => columns.map((column) => plain(column.cell(row))));
    return [...(titled ? [titles] : []), ...rows].map((cells) => line(cells.join('\t'))).join('');
  }
  const { Chalk } = await import('chalk');
  const chalk = new Chalk({ level: io.color ? 1 : 0 });
  const rows = answer.rows.map((row) =>
    columns.map((column) => styled(column.cell(row), chalk, io.tty ? now : undefined)),
  );
  return drawTable(titled ? [titles.map((title) => chalk.bold(title)), ...rows] : rows);
}

/** Columns and no lines, so that a table can be searched, copied and cut as it stands. */
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

/** @param now none where nobody looks on: a moment is then printed as it is */
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

/** Its own line breaks stand; what else could move the cursor does not. */
function valueLine({ text }: ValueAnswer): string {
  return line(text.split('\n').map(printable).join('\n'));
}

function line(text: string): string {
  return `${text}\n`;
}

/** What an expression made of foreign data: its lines are its own, but no control character gets through. */
function printableLines(text: string): string {
  return text.replace(/[^\n\t]+/g, printable);
}
