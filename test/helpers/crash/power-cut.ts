/**
 * Simulates a power cut from a recording of the store's writes. Synced writes are on the disk. The disk has
 * none of the others, some in any order, or a part of one.
 */
import { createReadStream, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Random } from '../random.ts';

/** A disk writes a sector completely or not at all. */
const SECTOR = 512;

export interface Operation {
  /** Seconds since the epoch. */
  at: number;
  /** Name of the file in the data dir. */
  file: string;
  do: { kind: 'write'; bytes: Buffer; offset: number } | { kind: 'cut'; size: number } | { kind: 'sync' };
}

const CALL = /^\d+ +([\d.]+) (\w+)\(\d+<([^>]*)>(?:, (.*))?\) += (-?\d+)/;

/** @returns the operations in a recording of strace, in their order. @throws on an unknown line or a failed call */
export async function readRecord(record: string): Promise<Operation[]> {
  const operations: Operation[] = [];
  const begun = new Map<string, string>();
  for await (const line of createInterface({ input: createReadStream(record, 'latin1') })) {
    if (/ (\+\+\+|---) /.test(line.slice(0, 60))) continue;
    const [process] = line.split(' ', 1) as [string];
    if (line.endsWith(' <unfinished ...>')) {
      begun.set(process, line.slice(0, -' <unfinished ...>'.length));
      continue;
    }
    const [, resumed] = / <\.\.\. \w+ resumed>(.*)$/.exec(line) ?? [];
    const call = resumed === undefined ? line : begun.get(process) + resumed;
    const [, at, name, path, words = '', result] = CALL.exec(call) ?? [];
    if (at === undefined || Number(result) < 0) throw new Error(`unknown line: ${call.slice(0, 200)}`);
    const file = basename(bytesOf(path!).toString());
    operations.push({ at: Number(at), file, do: operationOf(name!, words, Number(result)) });
  }
  return operations;
}

function operationOf(name: string, words: string, result: number): Operation['do'] {
  switch (name) {
    case 'pwrite64': {
      const [, text, , offset] = /^"([^"]*)", (\d+), (\d+)$/.exec(words)!;
      return { kind: 'write', bytes: bytesOf(text!).subarray(0, result), offset: Number(offset) };
    }
    case 'ftruncate':
      return { kind: 'cut', size: Number(words) };
    case 'fsync':
    case 'fdatasync':
      return { kind: 'sync' };
    default:
      throw new Error(`unknown call: ${name}`);
  }
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text.replaceAll('\\x', ''), 'hex');
}

/** A disk on which recorded writes are replayed, and whose power can be cut at any moment. */
export class PlayedDisk {
  readonly #durable = new Map<string, Buffer>();
  readonly #pending = new Map<string, Exclude<Operation['do'], { kind: 'sync' }>[]>();
  readonly #syncs: boolean;

  /** @param base folder with the files before the first write @param syncs false: a disk that acknowledges syncs but ignores them */
  constructor(base: string, files: readonly string[], syncs = true) {
    this.#syncs = syncs;
    for (const file of files)
      this.#durable.set(file, existsSync(join(base, file)) ? readFileSync(join(base, file)) : Buffer.alloc(0));
  }

  play({ file, do: operation }: Operation): void {
    const pending = this.#pending.get(file) ?? [];
    this.#pending.set(file, pending);
    if (operation.kind !== 'sync') pending.push(operation);
    else if (this.#syncs) {
      this.#durable.set(file, pending.splice(0).reduce(applied, this.#durable.get(file)!));
    }
  }

  /** Writes the files as they are after the power cut. @param mode what happens to unsynced writes */
  cut(into: string, mode: 'lost' | 'partly' | 'torn', random: Random): void {
    for (const [file, durable] of this.#durable) {
      let content: Buffer = Buffer.from(durable);
      for (const operation of this.#pending.get(file) ?? []) {
        if (mode === 'lost' || random.below(2) === 0) continue;
        content = applied(content, mode === 'torn' ? torn(operation, random) : operation);
      }
      writeFileSync(join(into, file), content);
    }
  }
}

function torn<T extends Operation['do']>(operation: T, random: Random): T {
  if (operation.kind !== 'write') return operation;
  const sectors = Math.ceil(operation.bytes.length / SECTOR);
  return { ...operation, bytes: operation.bytes.subarray(0, SECTOR * random.below(sectors + 1)) };
}

/** Applies an operation, in place if the buffer is large enough. */
function applied(content: Buffer, operation: Operation['do']): Buffer {
  if (operation.kind === 'sync') return content;
  if (operation.kind === 'cut') return resized(content, operation.size);
  const { bytes, offset } = operation;
  const whole = resized(content, Math.max(content.length, offset + bytes.length));
  bytes.copy(whole, offset);
  return whole;
}

function resized(content: Buffer, size: number): Buffer {
  if (size <= content.length) return content.subarray(0, size);
  const larger = Buffer.alloc(size);
  content.copy(larger);
  return larger;
}
