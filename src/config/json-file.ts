/** Reads JSON files that people and other programs write. Errors name the file, the line and the column. */
import { isUtf8 } from 'node:buffer';
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats, statSync } from 'node:fs';
import { parse, type ValueNode } from '@humanwhocodes/momoa';
import { VregError } from '../protocol/errors.ts';

export interface JsonFile {
  path: string;
  content: Record<string, unknown>;
  text: string;
}

/**
 * Reads a file with a JSON object.
 * @param what description for error messages, for example `the config file`
 * @param hint how to correct an invalid file
 * @returns undefined if it does not exist
 * @throws VregError USAGE if it cannot be read, or is not a JSON object in UTF-8
 */
export function readJsonFile(path: string, what: string, hint: string): JsonFile | undefined {
  try {
    return parseJsonFile(path, readPlainFile(path, `${what} ${path}`), what, hint);
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new VregError('USAGE', `cannot read ${what} ${path} (${code})`, {
      hint: code === 'ELOOP' ? REMOVE : `check the owner and the mode: ls -l ${path}`,
      cause,
    });
  }
}

/**
 * Reads a file. Refuses a pipe and a device, because reading one could block the process forever.
 * @param subject of the error message
 * @throws VregError USAGE if it is anything but a regular file; the file system's errors
 */
export function readPlainFile(path: string, subject: string): Buffer {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    checkIsFile(fstatSync(file), subject);
    return readFileSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENXIO') checkIsFile(statSync(path), subject); // a socket
    throw error;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** The next step for a path that no editor can correct. */
const REMOVE = 'remove or rename it';

/** @param subject of the error message. @throws VregError USAGE if it is anything but a regular file */
export function checkIsFile(stats: Stats, subject: string): void {
  if (stats.isFile()) return;
  const kind = stats.isDirectory() ? 'folder' : stats.isFIFO() ? 'pipe' : stats.isSocket() ? 'socket' : 'device';
  throw new VregError('USAGE', `${subject} is a ${kind} instead of a file`, { hint: REMOVE });
}

/** Parses the bytes of a file. Its parameters and errors are those of {@link readJsonFile}. */
export function parseJsonFile(path: string, bytes: Buffer, what: string, hint: string): JsonFile {
  const text = bytes.toString();
  const refused = (why: string, offset: number) =>
    new VregError('USAGE', `${what} ${path} ${why} (${lineAndColumn(text, offset)})`, { hint });
  if (!isUtf8(bytes)) throw refused('is not UTF-8 text', text.indexOf('\ufffd'));
  if (text.startsWith('\ufeff')) throw refused('begins with a byte order mark, which JSON does not allow', 0);
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (error) {
    const offset = errorOffset(text, (error as SyntaxError).message);
    throw refused(`is not a JSON object: ${describeCharacter(text[offset])}`, offset);
  }
  if (isObject(content)) return { path, content, text };
  throw refused('is not a JSON object', text.search(/\S/));
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @returns `PATH, line 2, column 3`: where the file contains a key, or its value */
export function placeOf({ path, text }: JsonFile, keys: readonly string[], which: 'name' | 'value'): string {
  let node: ValueNode = parse(text).body;
  let offset = 0;
  for (const key of keys) {
    // JSON.parse uses the last of several members with the same name.
    const member = node.type === 'Object' && node.members.findLast(({ name }) => 'value' in name && name.value === key);
    if (!member) break;
    offset = member[which].loc.start.offset;
    node = member.value;
  }
  return `${path}, ${lineAndColumn(text, offset)}`;
}

/** @param message of JSON.parse, which does not always contain the position */
function errorOffset(text: string, message: string): number {
  const [, stated] = /at position (\d+)/.exec(message) ?? [];
  if (stated !== undefined) return Number(stated);
  if (message.includes('end of JSON')) return text.length;
  try {
    parse(text);
    return 0;
  } catch (error) {
    return (error as { offset?: number }).offset ?? 0;
  }
}

function describeCharacter(character: string | undefined): string {
  if (character === undefined) return 'it ends too early';
  return character === '\n' || character === '\r'
    ? 'unexpected end of line'
    : `unexpected ${JSON.stringify(character)}`;
}

/** Both count from 1. */
function lineAndColumn(text: string, offset: number): string {
  const lines = text.slice(0, Math.max(0, offset)).split('\n');
  return `line ${lines.length}, column ${lines.at(-1)!.length + 1}`;
}
