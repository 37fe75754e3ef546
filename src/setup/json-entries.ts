/** Entries in JSON files of other programs. Everything else in the file stays as it is, with its formatting and comments. */
import { isDeepStrictEqual } from 'node:util';
import {
  applyEdits,
  createScanner,
  type FormattingOptions,
  findNodeAtLocation,
  modify,
  type Node,
  type ParseError,
  parse,
  parseTree,
} from 'jsonc-parser';
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
    const { found, value } = find(file, text, entry);
    if (found.length > 0) {
      isEdited ||= !found.some(({ isEqual }) => isEqual);
      continue;
    }
    if (!entry.isOwnElement) text = edit(text, entry.path, entry.value);
    else if (value === undefined) text = edit(text, entry.path, [entry.value]);
    else text = edit(text, [...entry.path, (value as unknown[]).length], entry.value, true);
  }
  return { text: mark + text, isEdited };
}

/** Removes entries that nobody edited, and the objects and arrays that are empty then; the file too if nothing else is in it. */
export function removeEntries(file: string, before: string | undefined, entries: readonly JsonEntry[]): Change {
  const { mark, json } = split(before);
  if (json === undefined) return { text: before, isEdited: false };
  let text = json;
  let isEdited = false;
  for (const entry of entries) {
    const { found } = find(file, text, entry);
    isEdited ||= found.some(({ isEqual }) => !isEqual);
    // The last one first, because a removal moves those behind it.
    for (const { path: own } of found.filter(({ isEqual }) => isEqual).reverse()) {
      text = remove(text, own);
      for (let path = own.slice(0, -1); path.length > 0 && isEmpty(text, path); path = path.slice(0, -1))
        text = remove(text, path);
    }
  }
  const isLeftEmpty = text !== json && EMPTY.test(text.trim());
  return { text: isLeftEmpty ? undefined : mark + text, isEdited };
}

/** Separates the byte order mark, which is no part of JSON. A file without content counts as one without JSON. */
function split(before = ''): { mark: string; json: string | undefined } {
  const mark = before.startsWith(BYTE_ORDER_MARK) ? BYTE_ORDER_MARK : '';
  const json = before.slice(mark.length);
  return { mark, json: json.trim() === '' ? undefined : json };
}

/** The entries in the text that are those of vreg, and the value at the path. */
function find(file: string, text: string, { path, value, isOwnElement }: JsonEntry) {
  const content = contentOf(file, text);
  for (let depth = 1; depth < path.length; depth++) requireObject(file, content, path.slice(0, depth));
  for (let depth = 0; depth < path.length; depth++) requireOnce(file, text, path.slice(0, depth), path[depth]!);
  const there = valueAt(content, path);
  if (isOwnElement && there !== undefined && !Array.isArray(there))
    throw invalid(file, `has no array at ${path.join('.')}`);
  const all: { path: Path; element: unknown }[] = isOwnElement
    ? ((there as unknown[] | undefined) ?? []).map((element, index) => ({ path: [...path, index], element }))
    : [{ path, element: there }];
  const found = all
    .filter(({ element }) => (isOwnElement ? isOwnElement(element) : element !== undefined))
    .map(({ path, element }) => ({ path, isEqual: isDeepStrictEqual(element, value) }));
  return { found, value: there };
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

/** Programs read the last of two values with the same key, but an edit changes the first one. @throws VregError USAGE */
function requireOnce(file: string, text: string, path: Path, key: string): void {
  const { children = [] } = nodeAt(text, path) ?? {};
  if (children.filter(({ children: [name] = [] }) => name?.value === key).length > 1)
    throw invalid(file, `has the key "${key}" twice`);
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

/** An object or an array without content. One with a comment has content. */
const EMPTY = /^(\{\s*\}|\[\s*\])$/;

/** Also false for a value with a comment before it, which a removal would take away. */
function isEmpty(text: string, path: Path): boolean {
  const node = nodeAt(text, path)!;
  const [key] = node.parent!.children!;
  return EMPTY.test(text.slice(endOf(key!), endOf(node)).replace(/^\s*:/, '').trim());
}

function nodeAt(text: string, path: Path): Node | undefined {
  const tree = parseTree(text, [], { allowTrailingComma: true });
  return tree && findNodeAtLocation(tree, path);
}

/**
 * Removes a value with its key, one comma, and the white space before it. The library would also remove the comments around it, and
 * leave a comma behind the only value of an object, which is invalid then.
 */
function remove(text: string, path: Path): string {
  const node = nodeAt(text, path)!;
  const item = typeof path.at(-1) === 'number' ? node : node.parent!;
  const siblings = item.parent!.children!;
  const previous = siblings[siblings.indexOf(item) - 1];
  const head = text.slice(0, item.offset);
  const tail = text.slice(endOf(item));
  const comma = commaBehind(text, item);
  if (comma !== undefined) return join(head, without(tail, comma - endOf(item)));
  const before = previous && commaBehind(text, previous);
  return join(before === undefined ? head : without(head, before), tail);
}

function endOf({ offset, length }: Node): number {
  return offset + length;
}

/** The offset of the comma behind a value, also of one behind comments. */
function commaBehind(text: string, item: Node): number | undefined {
  const scanner = createScanner(text, true);
  scanner.setPosition(endOf(item));
  scanner.scan();
  const offset = scanner.getTokenOffset();
  return text[offset] === ',' ? offset : undefined;
}

function without(text: string, offset: number): string {
  return text.slice(0, offset) + text.slice(offset + 1);
}

/** Joins two parts without the white space between them, unless the second one would become part of a comment. */
function join(head: string, tail: string): string {
  const trimmed = head.trimEnd();
  const lastLine = trimmed.slice(trimmed.lastIndexOf('\n') + 1);
  return (/^[ \t]*\r?\n/.test(tail) || !lastLine.includes('//') ? trimmed : head) + tail;
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
