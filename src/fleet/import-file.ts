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

/**
 * Reads a file, or stdin if the path is `-`.
 * @throws VregError USAGE; REFUSED if the user ends the input without typing anything
 */
export async function readInput(context: Context, path: string): Promise<string> {
  const { io, signal } = context;
  const isStdin = path === '-';
  if (isStdin && io.stdinTty) context.note('reading from the terminal; end with Ctrl-D');
  const reading = isStdin ? io.readStdin(signal) : readFileOrPipe(path, (ms) => context.sleep(ms));
  const text = await reading.catch((cause: unknown) => {
    signal.throwIfAborted();
    throw cannotRead(isStdin ? 'stdin' : path, cause, { field: 'file', hint: 'check its path and mode' });
  });
  if (isStdin && io.stdinTty && text === '')
    throw new VregError('REFUSED', 'stdin is empty', { field: 'file', hint: 'type the input before Ctrl-D' });
  return text;
}

/** @throws VregError INVALID if the text of a file, or of stdin if the path is `-`, is empty */
export function rejectEmpty(text: string, path: string): void {
  if (text.trim() !== '') return;
  throw new VregError('INVALID', `${path === '-' ? 'stdin' : path} is empty`, {
    field: 'file',
    hint: path === '-' ? 'did the command before the pipe fail?' : 'write JSON to it',
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
  const name = path === '-' ? 'stdin' : path;
  const text = await readInput(context, path);
  rejectEmpty(text, path);
  const { values, single } = parse(text, name);
  const entries = values.map((value, index) => {
    try {
      const flaw = findFlaw(value);
      if (flaw) throw invalid('body', `the entry ${flaw}`);
      return parseEntry(isObject(value) ? complete(value) : value);
    } catch (error) {
      if (!(error instanceof VregError) || single) throw error;
      throw new VregError('INVALID', `${name}: entry ${index + 1}: ${error.message}`, {
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
