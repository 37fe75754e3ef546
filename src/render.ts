/** Answers become text here and nowhere else: tables, TSV, JSON, YAML, names. */
import { Chalk, type ChalkInstance } from 'chalk';
import Table from 'cli-table3';
import { formatAge } from './duration.ts';
import { evaluateJsonPath, evaluateTemplate } from './expression.ts';
import { type Io, printable } from './io.ts';
import type { OutputFormat } from './settings.ts';

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

/** Prints an answer to stdout. YAML is the one format that loads a library of its own, so it is awaited. */
export async function print<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<void> {
  if (answer.kind === 'rows' && answer.rows.length === 0 && answer.none && io.tty) io.err(`${answer.none}\n`);
  io.out(await format(io, answer, options));
}

async function format<T>(io: Io, answer: Answer<T>, options: RenderOptions): Promise<string> {
  const [name, expression] = splitFormat(options.format);
  switch (name) {
    case 'json':
      return line(JSON.stringify(dataOf(answer), null, 2));
    case 'ndjson':
      return linesOf(answer);
    case 'yaml':
      return (await import('yaml')).stringify(dataOf(answer));
    case 'jsonpath':
      return unlessEmpty(await evaluateJsonPath(expression, dataOf(answer)));
    case 'template':
      return evaluateTemplate(expression, dataOf(answer));
    case 'name':
      return answer.kind === 'value' ? line(answer.text) : answer.rows.map((row) => line(answer.name(row))).join('');
    default:
      return answer.kind === 'value' ? line(answer.text) : formatRows(io, answer, options);
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
  return (Array.isArray(data) ? data : [data]).map((item) => line(JSON.stringify(item))).join('');
}

function formatRows<T>(io: Io, answer: RowsAnswer<T>, { format, headers, now }: RenderOptions): string {
  if (answer.rows.length === 0) return '';
  const columns = answer.columns.filter((column) => !column.wide || format === 'wide');
  const titles = columns.map(({ title }) => title);
  if (format === 'tsv' || !io.tty) {
    const rows = answer.rows.map((row) => columns.map((column) => plain(column.cell(row))));
    return [...(headers ? [titles] : []), ...rows].map((cells) => line(cells.join('\t'))).join('');
  }
  const chalk = new Chalk({ level: io.color ? 1 : 0 });
  const rows = answer.rows.map((row) => columns.map((column) => styled(column.cell(row), chalk, now)));
  return drawTable(headers ? [titles.map((title) => chalk.bold(title)), ...rows] : rows);
}

/** Columns and no lines, so that a table can be searched, copied and cut as it stands. */
function drawTable(rows: string[][]): string {
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

function styled(cell: Cell, chalk: ChalkInstance, now: number): string {
  if (typeof cell !== 'object') return printable(String(cell));
  if ('time' in cell) return formatAge(now - Date.parse(cell.time));
  return chalk[cell.color](printable(cell.text));
}

function plain(cell: Cell): string {
  if (typeof cell !== 'object') return printable(String(cell));
  return 'time' in cell ? cell.time : printable(cell.text);
}

function line(text: string): string {
  return `${text}\n`;
}
