/** Entries in JSON files of other programs. Everything else in the file stays as it is, with its formatting and comments. */
import { isDeepStrictEqual } from 'node:util';
import { createScanner, findNodeAtLocation, type Node, type ParseError, parse, parseTree } from 'jsonc-parser';
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

/** One level of indentation in a file that vreg creates, and in one that has no indentation. They differ; see {@link removeEntries}. */
const [NEW_INDENT, DEFAULT_INDENT] = ['\t', '  '];

/** Adds entries that are missing. @param file for error messages @throws VregError USAGE if the text is not a JSON object */
export function addEntries(file: string, before: string | undefined, entries: readonly JsonEntry[]): Change {
  const { mark, json } = split(before);
  const indent = before === undefined ? NEW_INDENT : DEFAULT_INDENT;
  let text = json ?? '{}\n';
  let isEdited = false;
  for (const entry of entries) {
    const found = find(file, text, entry);
    if (found.length === 0) text = add(text, entry, indent);
    else isEdited ||= !found.some(({ isEqual }) => isEqual);
  }
  return { text: mark + text, isEdited };
}

/**
 * Removes entries that nobody edited, and the objects and arrays that are empty then. Removes the file too if it is as
 * {@link addEntries} has created it.
 */
export function removeEntries(file: string, before: string | undefined, entries: readonly JsonEntry[]): Change {
  const { mark, json } = split(before);
  if (json === undefined) return { text: before, isEdited: false };
  // Git may have converted the line endings.
  if (json.replaceAll('\r\n', '\n') === addEntries(file, undefined, entries).text)
    return { text: undefined, isEdited: false };
  let text = json;
  let isEdited = false;
  for (const entry of entries) {
    const found = find(file, text, entry);
    isEdited ||= found.some(({ isEqual }) => !isEqual);
    // The last one first, because a removal moves those behind it.
    for (const { path: own } of found.filter(({ isEqual }) => isEqual).reverse()) {
      text = remove(text, own);
      for (let path = own.slice(0, -1); path.length > 0 && isEmpty(text, path); path = path.slice(0, -1))
        text = remove(text, path);
    }
  }
  const isEmptied = text !== json && EMPTY.test(text.trim());
  return { text: mark + (isEmptied ? text.replace(/\{\s*\}/, '{}') : text), isEdited };
}

/** Separates the byte order mark, which is no part of JSON. A file without content counts as one without JSON. */
function split(before = ''): { mark: string; json: string | undefined } {
  const mark = before.startsWith(BYTE_ORDER_MARK) ? BYTE_ORDER_MARK : '';
  const json = before.slice(mark.length);
  return { mark, json: json.trim() === '' ? undefined : json };
}

/** The entries in the text that are those of vreg. @throws VregError USAGE */
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
  return all
    .filter(({ element }) => (isOwnElement ? isOwnElement(element) : element !== undefined))
    .map(({ path, element }) => ({ path, isEqual: isDeepStrictEqual(element, value) }));
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

/** Adds an entry, and the objects and the array that contain it. @param defaultIndent one level, if the text has no indentation */
function add(text: string, { path, value, isOwnElement }: JsonEntry, defaultIndent: string): string {
  const unit = /^([ \t]+)\S/m.exec(text)?.[1] ?? defaultIndent;
  const array = isOwnElement && nodeAt(text, path);
  if (array) return insert(text, array, undefined, value, unit);
  let added: object = isOwnElement ? [value] : value;
  for (let depth = path.length - 1; ; depth--) {
    const container = nodeAt(text, path.slice(0, depth));
    if (container) return insert(text, container, path[depth]!, added, unit);
    added = { [path[depth]!]: added };
  }
}

/**
 * Inserts a value at the end of an object or an array. The library would format what is around it as well, which takes minutes in a
 * file that is one line of some megabytes.
 * @param unit one level of indentation
 */
function insert(text: string, container: Node, key: string | undefined, value: object, unit: string): string {
  const close = endOf(container) - 1;
  const last = container.children!.at(-1);
  const comma = last && commaBehind(text, last);
  const isOneLine = !text.slice(last ? container.offset : 0, close).includes('\n') && !EMPTY.test(text.trim());
  const newLine = text.includes('\r\n') ? '\r\n' : '\n';
  const outer = newLine + indentAt(text, container.offset);
  const inner = last ? newLine + indentAt(text, last.offset) : outer + unit;
  const json = JSON.stringify(value, null, unit).replaceAll(/\n/g, inner);
  const item = `${key === undefined ? '' : `${JSON.stringify(key)}: `}${isOneLine ? json.replaceAll(/\s*\n\s*/g, ' ') : json}`;
  // Behind the comments, unless they are on the same line.
  const end = isOneLine && last ? (comma ?? endOf(last) - 1) + 1 : text.slice(0, close).trimEnd().length;
  const head =
    last && comma === undefined ? `${text.slice(0, endOf(last))},${text.slice(endOf(last), end)}` : text.slice(0, end);
  const tail = text.slice(end);
  const isClosedBelow = isOneLine || last || /^\s*\n/.test(tail);
  return `${head}${isOneLine ? ' ' : inner}${item}${comma === undefined ? '' : ','}${isClosedBelow ? '' : outer}${tail}`;
}

/** The white space at the start of the line of an offset. */
function indentAt(text: string, offset: number): string {
  return /^[ \t]*/.exec(text.slice(text.lastIndexOf('\n', offset - 1) + 1))![0];
}
