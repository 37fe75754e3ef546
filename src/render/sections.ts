/** Formats the description of one item for people: labelled values, then one block per section. */
import type { Io } from '../io.ts';
import { escapeControls, printable } from '../protocol/redact.ts';
import { type Answer, format } from '../render.ts';
import { layoutFor } from './layout.ts';

/** A label and its text, which breaks at spaces to fit the terminal. */
export interface Field {
  label: string;
  text: string;
}

/** A block of fields, or a table, below its title. An empty one is shown as `none`. */
export interface Section {
  title: string;
  content: readonly Field[] | Answer;
  /** A line below the content. */
  more?: string;
}

const INDENT = '  ';
/** Spaces between the longest label and the texts. */
const GAP = 2;
/** Minimum number of columns for a text, so that a narrow terminal does not show one word per line. */
const MIN_TEXT = 20;

/** @param now milliseconds since the epoch, from which ages are computed */
export async function formatSections(
  io: Io,
  fields: readonly Field[],
  sections: readonly Section[],
  now: number,
): Promise<string> {
  const isEmpty = ({ content }: Section) =>
    'kind' in content ? content.kind === 'rows' && content.rows.length === 0 : content.length === 0;
  const none = sections.filter(isEmpty).map(({ title }) => ({ label: title, text: 'none' }));
  const blocks = [await formatFields(io, [...fields, ...none])];
  const inner = { ...io, width: io.width - INDENT.length };
  for (const section of sections.filter((section) => !isEmpty(section))) {
    const { title, content, more } = section;
    const text =
      'kind' in content
        ? await format(inner, content, { format: 'table', headers: true, now })
        : await formatFields(inner, content);
    const lines = [...text.trimEnd().split('\n'), ...(more === undefined ? [] : [more])];
    blocks.push(`${title}:\n${lines.map((line) => `${INDENT}${line}\n`).join('')}`);
  }
  return blocks.join('');
}

async function formatFields({ tty, width }: Pick<Io, 'tty' | 'width'>, fields: readonly Field[]): Promise<string> {
  const labels = fields.map(({ label }) => `${printable(label)}:`);
  const texts = fields.map(({ text }) => printable(String(text)));
  const layout = await layoutFor([...labels, ...texts]);
  const column = layout.longest(labels) + GAP;
  const available = tty ? Math.max(width - column, MIN_TEXT) : Number.POSITIVE_INFINITY;
  return texts
    .map((text, index) => {
      const lines = layout.wrapText(text, available, 'keep');
      return `${layout.padText(labels[index]!, column)}${lines.join(`\n${' '.repeat(column)}`)}\n`;
    })
    .join('');
}

/** A value of unknown type on one line: text as is, unless it has control characters, and everything else as JSON. */
export function inlineValue(value: unknown): string {
  if (typeof value === 'string' && printable(value) === value) return value;
  return escapeControls(JSON.stringify(value) ?? String(value));
}
