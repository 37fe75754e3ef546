/**
 * Reads entries from a file or stdin: one entry, an array, one entry per line, or the `{"vms": [...]}` of the original registry
 * (vers-agent-services).
 */
import type { Context } from '../command.ts';
import { readFileOrPipe } from '../files.ts';
import { cannotRead, invalid, VregError } from '../protocol/errors.ts';
import { findFlaw } from '../protocol/json.ts';
import { type ImportedVm, parseRegistration } from '../protocol/vm.ts';

export interface Entries {
  entries: ImportedVm[];
  /** The file contains an entry itself instead of a list with one entry. */
  single: boolean;
}

/** True for `-` and for the device files of stdin. */
export function isStdin(path: string): boolean {
  return ['-', '/dev/stdin', '/dev/fd/0', '/proc/self/fd/0'].includes(path);
}

/**
 * Reads a file, or stdin if the path is `-`.
 * @throws VregError USAGE; REFUSED if the user ends the input without typing anything
 */
export async function readInput(context: Context, path: string): Promise<string> {
  const { io, signal } = context;
  const fromStdin = isStdin(path);
  noteTerminal(context, path);
  const reading = fromStdin ? io.readStdin(signal) : readFileOrPipe(path, (ms) => context.sleep(ms));
  const text = await reading.catch((cause: unknown) => {
    signal.throwIfAborted();
    throw cannotRead(fromStdin ? 'stdin' : path, cause, { field: 'file', hint: 'check its path and mode' });
  });
  if (fromStdin && io.stdinTty && text === '') throw emptyTerminal('file');
  return text;
}

/** Prints a note if the command reads stdin, and stdin is a terminal. */
export function noteTerminal(context: Context, path: string): void {
  if (isStdin(path) && context.io.stdinTty) context.note('reading from the terminal; end with Ctrl-D');
}

/** The error if the user ends the input without typing anything. */
export function emptyTerminal(field: string): VregError {
  return new VregError('REFUSED', 'stdin is empty', { field, hint: 'type the input before Ctrl-D' });
}

/** @throws VregError INVALID if the text of a file, or of stdin if the path is `-`, is empty */
export function rejectEmpty(text: string, path: string, field = 'file'): void {
  if (text.trim() !== '') return;
  throw new VregError('INVALID', `${isStdin(path) ? 'stdin' : path} is empty`, {
    field,
    hint: isStdin(path) ? 'did the command before the pipe fail?' : 'write JSON to it',
  });
}

/**
 * @param path a file's path, or `-` for stdin
 * @param complete adds defaults to an entry before it is checked
 * @param parseEntry checks an entry; by default, as a registration without times
 * @throws VregError USAGE if it cannot be read, INVALID naming the entry and its field
 */
export async function readEntries(
  context: Context,
  path: string,
  complete: (entry: object) => object = (entry) => entry,
  parseEntry: (value: unknown) => ImportedVm = parseRegistration,
): Promise<Entries> {
  const name = isStdin(path) ? 'stdin' : path;
  const text = await readInput(context, path);
  rejectEmpty(text, path);
  const { values, single } = parse(text, name);
  const entries = values.map((value, index) => {
    try {
      const flaw = findFlaw(value);
      if (flaw) throw invalid('body', `the entry ${flaw}`);
      return parseEntry(isObject(value) ? complete(value) : value);
    } catch (error) {
      if (!(error instanceof VregError)) throw error;
      const place = single ? name : `${name}: entry ${index + 1}`;
      throw new VregError('INVALID', `${place}: ${error.message}`, {
        hint: 'nothing was registered; fix the entry and try again',
        ...(error.field === undefined ? {} : { field: error.field }),
      });
    }
  });
  return { entries, single };
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parse(text: string, name: string): { values: unknown[]; single: boolean } {
  try {
    const value: unknown = JSON.parse(text);
    const list = Array.isArray(value) ? value : (value as { vms?: unknown } | null)?.vms;
    return Array.isArray(list) ? { values: list, single: false } : { values: [value], single: true };
  } catch (cause) {
    const lines = text.split('\n').filter((line) => line.trim() !== '');
    if (lines.length < 2) {
      throw new VregError('INVALID', `${name} is not JSON: ${(cause as Error).message}`, {
        field: 'file',
        hint: 'use one entry, an array, or one entry per line',
      });
    }
    return { values: lines.map((line, index) => parseLine(line, `${name}: line ${index + 1}`)), single: false };
  }
}

function parseLine(line: string, where: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new VregError('INVALID', `${where} is not JSON: ${(cause as Error).message}`, {
      field: 'file',
      hint: 'nothing was registered; use one entry, an array, or one entry per line',
    });
  }
}
