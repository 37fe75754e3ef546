/** Entries in JSON files of other programs. Everything else in the file stays as it is, with its formatting and comments. */
import { isDeepStrictEqual } from 'node:util';
import { applyEdits, type FormattingOptions, modify, type ParseError, parse } from 'jsonc-parser';
import { type Change, invalid } from './change.ts';

type Path = (string | number)[];

/** An entry: the value at a path, or one element of the array at it. */
export interface JsonEntry {
  path: string[];
  value: object;
  /** Recognizes the element also if somebody edited it. Absent for a value that is no element of an array. */
  isOwnElement?(element: unknown): boolean;
}

/** Editors on Windows write it at the start of a file. */
const BYTE_ORDER_MARK = '\ufeff';

/** Adds entries that are missing. @param file for error messages @throws VregError USAGE if the text is not a JSON object */
export function addEntries(file: string, before: string | undefined, entries: readonly JsonEntry[]): Change {
  const { mark, json } = split(before);
  let text = json ?? '{}\n';
  let isEdited = false;
  for (const entry of entries) {
    const { found, value, isEqual } = find(file, text, entry);
    if (found !== undefined) {
      isEdited ||= !isEqual;
      continue;
    }
    if (!entry.isOwnElement) text = edit(text, entry.path, entry.value);
    else if (value === undefined) text = edit(text, entry.path, [entry.value]);
    else text = edit(text, [...entry.path, (value as unknown[]).length], entry.value, true);
  }
  return { text: mark + text, isEdited };
}

/** Removes entries that nobody edited, and the objects and arrays that are empty then. */
export function removeEntries(file: string, before: string | undefined, entries: readonly JsonEntry[]): Change {
  const { mark, json } = split(before);
  if (json === undefined) return { text: before, isEdited: false };
  let text = json;
  let isEdited = false;
  for (const entry of entries) {
    const { found, isEqual } = find(file, text, entry);
    if (found === undefined) continue;
    if (!isEqual) {
      isEdited = true;
      continue;
    }
    text = edit(text, found, undefined);
    for (
      let path = found.slice(0, -1);
      path.length > 0 && isEmpty(valueAt(contentOf(file, text), path));
      path = path.slice(0, -1)
    )
      text = edit(text, path, undefined);
  }
  const isLeftEmpty = text !== json && isEmpty(contentOf(file, text));
  return { text: isLeftEmpty ? undefined : mark + text, isEdited };
}

/** Separates the byte order mark, which is no part of JSON. A file without content counts as one without JSON. */
function split(before = ''): { mark: string; json: string | undefined } {
  const mark = before.startsWith(BYTE_ORDER_MARK) ? BYTE_ORDER_MARK : '';
  const json = before.slice(mark.length);
  return { mark, json: json.trim() === '' ? undefined : json };
}

function find(file: string, text: string, { path, value, isOwnElement }: JsonEntry) {
  const content = contentOf(file, text);
  for (let depth = 1; depth < path.length; depth++) requireObject(file, content, path.slice(0, depth));
  const there = valueAt(content, path);
  if (!isOwnElement)
    return {
      found: there === undefined ? undefined : (path as Path),
      value: there,
      isEqual: isDeepStrictEqual(there, value),
    };
  if (there !== undefined && !Array.isArray(there)) throw invalid(file, `has no array at ${path.join('.')}`);
  const index = (there ?? []).findIndex((element) => isOwnElement(element));
  return {
    found: index < 0 ? undefined : [...path, index],
    value: there,
    isEqual: isDeepStrictEqual(there?.[index], value),
  };
}

function contentOf(file: string, text: string): object {
  const errors: ParseError[] = [];
  const content: unknown = parse(text, errors, { allowTrailingComma: true });
  if (errors.length === 0 && typeof content === 'object' && content !== null && !Array.isArray(content)) return content;
  const line = text.slice(0, errors[0]?.offset ?? 0).split('\n').length;
  throw invalid(file, `is not a JSON object (line ${line})`);
}

/** @throws VregError USAGE if a value at the path exists that cannot contain the entry */
function requireObject(file: string, content: object, path: string[]): void {
  const value = valueAt(content, path);
  if (value === undefined || (typeof value === 'object' && value !== null && !Array.isArray(value))) return;
  throw invalid(file, `has no object at ${path.join('.')}`);
}

function valueAt(content: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null && Object.hasOwn(value, key)
        ? (value as Record<string | number, unknown>)[key]
        : undefined,
    content,
  );
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

function edit(text: string, path: Path, value: unknown, isArrayInsertion = false): string {
  const indent = /^([ \t]+)\S/m.exec(text)?.[1] ?? '  ';
  const formattingOptions: FormattingOptions = {
    insertSpaces: !indent.startsWith('\t'),
    tabSize: indent.startsWith('\t') ? 1 : indent.length,
    eol: text.includes('\r\n') ? '\r\n' : '\n',
  };
  return applyEdits(text, modify(text, path, value, { formattingOptions, isArrayInsertion }));
}
