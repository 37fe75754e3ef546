/**
 * Splits a large JSON body that is a list into the JSON of its elements, in slices. Parsing it as a whole would block the event
 * loop for hundreds of milliseconds, and its values could take twenty times its size in memory.
 */
import { MAX_DEPTH } from '../../../src/protocol/json.ts';
import type { Scheduler } from '../../limits/scheduler.ts';
import { invalidBody, parseBody } from '../request/body.ts';

/** Bytes per step of the scan: about 0.1 ms. */
const STEP = 65_536;
/** Members that an object around the list may have besides it. */
const MAX_OTHERS = 100;
const [QUOTE, BACKSLASH, COMMA, COLON, OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = Buffer.from('"\\,:[]{}');
/** White space of JSON, and the bytes of a byte order mark. */
const BLANK: ReadonlySet<number> = new Set(Buffer.from(' \t\r\n\ufeff'));
/** Bytes that JSON.parse allocates in addition to the JSON: an object, an array, and a field. */
const OVERHEAD = { object: 56, array: 16, field: 8 };

export interface JsonList {
  /** JSON of each element. */
  elements: Buffer[];
  /** Estimate of the memory that the parsed elements take, in bytes. */
  memory: number;
}

/**
 * @param name the list is the body itself, or this member of an object
 * @param max number of elements
 * @throws VregError INVALID
 */
export async function splitList(bytes: Buffer, name: string, max: number, scheduler: Scheduler): Promise<JsonList> {
  const scan = new ListScan(bytes, max);
  await scheduler.repeat(() => scan.step());
  const outline = parseBody(scan.outline()) as Record<string, unknown> | unknown[] | undefined;
  const list = Array.isArray(outline) ? outline : outline?.[name];
  if (!Array.isArray(list)) throw invalidBody(`body must be {"${name}": [...]}`);
  if (list.length > max) throw tooMany(max);
  // In the outline, each nested element is an array with its index. Any other element is a literal.
  const elements = list.map((item) =>
    Array.isArray(item) ? scan.elements[item[0] as number]! : Buffer.from(JSON.stringify(item)),
  );
  const used = new Set(elements);
  const others = scan.elements.filter((element) => !used.has(element));
  // It may be as large as the body. Parsing it could take twenty times its size in memory if it is nested deeply.
  if (others.some((element) => scan.deep.has(element)))
    throw invalidBody(`body is nested more than ${MAX_DEPTH} levels deep`);
  if (others.length > 0) parseBody(scan.outline(new Set(others)));
  return { elements, memory: scan.memory };
}

function tooMany(max: number) {
  return invalidBody(`too many entries (limit ${max})`);
}

class ListScan {
  readonly elements: Buffer[] = [];
  /** The elements that are nested more than {@link MAX_DEPTH} levels deep. */
  readonly deep = new Set<Buffer>();
  memory = 0;
  readonly #bytes: Buffer;
  readonly #max: number;
  /** Number of brackets around an element. */
  readonly #outer: number;
  /** Parts of the body around the elements. */
  readonly #outline: (Buffer | { index: number })[] = [];
  #at = 0;
  #depth = 0;
  #isDeep = false;
  #isString = false;
  #commas = 0;
  /** Offset of the current element, or of the text after the last one. */
  #start = 0;

  constructor(bytes: Buffer, max: number) {
    this.#bytes = bytes;
    this.#max = max;
    this.#outer = bytes[bytes.findIndex((byte) => !BLANK.has(byte))] === OPEN_ARRAY ? 1 : 2;
  }

  /** Scans the next bytes. @returns false at the end */
  step(): boolean {
    const bytes = this.#bytes;
    const end = Math.min(bytes.length, this.#at + STEP);
    for (; this.#at < end; this.#at++) {
      const byte = bytes[this.#at]!;
      if (this.#isString) {
        if (byte === BACKSLASH) this.#at++;
        else if (byte === QUOTE) this.#isString = false;
      } else if (byte === QUOTE) this.#isString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) this.#open(byte === OPEN_OBJECT);
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) this.#close();
      else if (byte === COLON) this.memory += OVERHEAD.field;
      else if (byte === COMMA && this.#depth <= this.#outer && ++this.#commas > this.#max + MAX_OTHERS)
        throw tooMany(this.#max);
    }
    return this.#at < bytes.length;
  }

  #open(isObject: boolean): void {
    if (this.#depth === this.#outer) {
      if (this.elements.length > this.#max + MAX_OTHERS) throw tooMany(this.#max);
      this.#outline.push(this.#bytes.subarray(this.#start, this.#at), { index: this.elements.length });
      this.#start = this.#at;
    }
    this.memory += isObject ? OVERHEAD.object : OVERHEAD.array;
    if (++this.#depth > MAX_DEPTH + this.#outer) this.#isDeep = true;
  }

  #close(): void {
    if (--this.#depth !== this.#outer) return;
    const element = this.#bytes.subarray(this.#start, this.#at + 1);
    this.elements.push(element);
    if (this.#isDeep) this.deep.add(element);
    this.#isDeep = false;
    this.#start = this.#at + 1;
  }

  /**
   * JSON of the body, in which `[0]` stands for the first element that is an object or an array, `[1]` for the second one.
   * @param whole elements that are not replaced
   */
  outline(whole: ReadonlySet<Buffer> = new Set()): Buffer {
    if (this.#depth !== 0 || this.#isString)
      throw invalidBody('body is not valid JSON: a quote or a bracket has no counterpart');
    const parts = [...this.#outline, this.#bytes.subarray(this.#start)].map((part) => {
      if (Buffer.isBuffer(part)) return part;
      const element = this.elements[part.index]!;
      return whole.has(element) ? element : Buffer.from(`[${part.index}]`);
    });
    return Buffer.concat(parts);
  }
}
