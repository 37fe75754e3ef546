/**
 * Results of tools. All text in an entry comes from a VM and may address the model, so it is cleaned, limited, and enclosed in a
 * delimiter that it cannot contain.
 */
import type { CallToolResult } from '@modelcontextprotocol/server';
import type { VmWithLiveness } from '../protocol/api.ts';
import type { VregError } from '../protocol/errors.ts';
import { ageOf, livenessOf } from '../protocol/liveness.ts';
import { maskTokens, printable } from '../protocol/redact.ts';
import { forScripts, VM_FIELDS } from '../protocol/vm.ts';
import type { ToolAnswer } from './tool.ts';

/** Maximum number of VMs in one result. */
export const MAX_ROWS = 50;
/** Maximum number of characters of the VMs in one result as JSON, about 8,000 tokens. The first VM is always included. */
const MAX_CHARACTERS = 30_000;
/** Maximum number of characters of one field with a structure, as JSON; a longer one is omitted. */
const MAX_FIELD = 2000;
/** Maximum number of characters of one string. The daemon limits names and addresses to 1024. */
const MAX_STRING = 2000;

/** The element that encloses the data in a text result. */
export const DATA_ELEMENT = 'registry-data';

/** The parts of an entry that a result contains. The parent has two names of the same value, of which one is enough. */
const FIELDS = [...VM_FIELDS.filter((field) => field !== 'parentVmId'), 'health'] as const;

/**
 * An entry as a row of a result.
 * @param now milliseconds since the epoch, by the clock of the registry
 */
export function rowOf(vm: VmWithLiveness, now: number): Record<string, unknown> {
  const { row } = forScripts(vm);
  const omitted: string[] = [];
  const fields = FIELDS.flatMap((field): [string, unknown][] => {
    const value = row[field];
    if (value === undefined || value === null) return [];
    if (typeof value !== 'object' || JSON.stringify(value).length <= MAX_FIELD) return [[field, value]];
    omitted.push(field);
    return [];
  });
  return {
    ...Object.fromEntries(fields),
    live: livenessOf(vm),
    ageSeconds: ageOf(vm, now) ?? 0,
    ...(omitted.length === 0 ? {} : { omitted }),
  };
}

/** The rows of as many VMs as a result may contain, and the number of the others. */
export function limitRows(vms: readonly VmWithLiveness[], now: number): { rows: object[]; more: number } {
  const rows: object[] = [];
  let characters = 0;
  for (const vm of vms.slice(0, MAX_ROWS)) {
    const row = clean(rowOf(vm, now)) as object;
    characters += JSON.stringify(row).length;
    if (rows.length > 0 && characters > MAX_CHARACTERS) break;
    rows.push(row);
  }
  return { rows, more: vms.length - rows.length };
}

/** Characters without a shape: format characters, variation selectors and tags. A VM could hide text from people with them. */
const HIDDEN = /\p{Cf}|[\u{fe00}-\u{fe0f}]|[\u{e0000}-\u{e01ef}]/gu;

/** Replaces control characters in all strings, except line feeds and tabs, and shortens long strings. */
export function clean(value: unknown): unknown {
  if (typeof value === 'string') return cleanText(value);
  if (Array.isArray(value)) return value.map(clean);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [cleanText(key), clean(each)]));
}

export function cleanText(text: string): string {
  const short = text.length > MAX_STRING ? `${text.slice(0, MAX_STRING)}…` : text;
  const visible = short.toWellFormed().replace(HIDDEN, '\ufffd');
  return maskTokens(
    visible
      .split(/([\n\t])/)
      .map((part, index) => (index % 2 === 0 ? printable(part) : part))
      .join(''),
  );
}

/** JSON that cannot contain the delimiter. */
export function safeJson(value: unknown): string {
  return JSON.stringify(value).replace(/[<>]/g, (mark) => `\\u00${mark.charCodeAt(0).toString(16)}`);
}

export function resultOf({ summary, data, more }: ToolAnswer): CallToolResult {
  const structured = clean(data) as Record<string, unknown>;
  const lines = [summary, `<${DATA_ELEMENT}>`, safeJson(structured), `</${DATA_ELEMENT}>`, ...(more ? [more] : [])];
  return { content: [{ type: 'text', text: lines.join('\n') }], structuredContent: structured };
}

/** The cause of an error in one line. An error may quote text from a VM or a proxy. */
export function cause({ message }: VregError): string {
  return cleanText(message).replace(/\s+/g, ' ');
}
