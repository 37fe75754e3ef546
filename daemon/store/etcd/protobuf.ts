/**
 * Reads and writes the wire format of Protocol Buffers: varints and length-delimited fields, which are all that etcd's API
 * uses. The messages are in `messages.ts`. A library would compile its codec with `Function()`, which hardened processes forbid,
 * and would need the `.proto` files at run time.
 *
 * 64-bit ids are bigint, because they use all bits. Revisions, versions and counts are numbers: etcd counts them up from 1.
 */

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** Writes one message. Nested messages are written as the bytes of another writer. */
export class MessageWriter {
  readonly #parts: Buffer[] = [];

  /** Writes a non-negative safe integer, an enum or a flag, also if it is the default. */
  number(field: number, value: number): this {
    this.#parts.push(varint(field * 8 + VARINT), varint(value));
    return this;
  }

  /** Writes a number unless it is undefined. */
  optionalNumber(field: number, value: number | undefined): this {
    return value === undefined ? this : this.number(field, value);
  }

  /** Writes a flag if it is set. */
  flag(field: number, value: boolean | undefined): this {
    return value ? this.number(field, 1) : this;
  }

  id(field: number, value: bigint | undefined): this {
    if (value === undefined) return this;
    this.#parts.push(varint(field * 8 + VARINT), longVarint(value));
    return this;
  }

  bytes(field: number, value: string | Uint8Array | undefined): this {
    if (value === undefined) return this;
    const bytes =
      typeof value === 'string' ? Buffer.from(value) : Buffer.from(value.buffer, value.byteOffset, value.length);
    this.#parts.push(varint(field * 8 + BYTES), varint(bytes.length), bytes);
    return this;
  }

  message(field: number, message: MessageWriter): this {
    return this.bytes(field, message.finish());
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** The varints of one byte: nearly all field tags, lengths and flags. */
const SHORT = Array.from({ length: 0x80 }, (_, value) => Buffer.of(value));

function varint(value: number): Buffer {
  if (value < 0x80) return SHORT[value]!;
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) + 0x80);
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** A negative value takes ten bytes, as the format requires. */
function longVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  for (; rest >= 0x80n; rest >>= 7n) bytes.push(Number(rest & 0x7fn) + 0x80);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

/** A message that cannot be decoded. */
export class MalformedMessage extends Error {}

/** Reads the fields of one message: `while (reader.next())` with a switch on `reader.field`. Fields that are not read are skipped. */
export class MessageReader {
  readonly #bytes: Buffer;
  #at = 0;
  #wireType = VARINT;
  /** True if the value of the current field has not been read. */
  #isPending = false;
  /** Number of the current field. */
  field = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** @returns false at the end of the message */
  next(): boolean {
    if (this.#isPending) this.#skip();
    if (this.#at >= this.#bytes.length) return false;
    const tag = this.#varint();
    this.field = Math.floor(tag / 8);
    this.#wireType = tag % 8;
    this.#isPending = true;
    return true;
  }

  /** @throws MalformedMessage also if the value is larger than the largest safe integer */
  number(): number {
    this.#expect(VARINT);
    const value = this.#varint();
    if (value > Number.MAX_SAFE_INTEGER) throw new MalformedMessage(`field ${this.field} is too large for a number`);
    return value;
  }

  flag(): boolean {
    this.#expect(VARINT);
    return this.#varint() !== 0;
  }

  /** An unsigned 64-bit integer. */
  id(): bigint {
    this.#expect(VARINT);
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#byte();
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw new MalformedMessage('a varint has more than 10 bytes');
  }

  /** A signed 64-bit integer, such as the -1 that etcd sends as the id of no watch. */
  signed(): number {
    return Number(BigInt.asIntN(64, this.id()));
  }

  /** A view on the message, not a copy. */
  bytes(): Buffer {
    this.#expect(BYTES);
    return this.#slice();
  }

  text(): string {
    return this.bytes().toString();
  }

  message(): MessageReader {
    return new MessageReader(this.bytes());
  }

  #expect(wireType: number): void {
    if (this.#wireType !== wireType)
      throw new MalformedMessage(`field ${this.field} has wire type ${this.#wireType} instead of ${wireType}`);
    this.#isPending = false;
  }

  #skip(): void {
    this.#isPending = false;
    switch (this.#wireType) {
      case VARINT:
        this.#varint();
        return;
      case FIXED64:
        this.#advance(8);
        return;
      case BYTES:
        this.#slice();
        return;
      case FIXED32:
        this.#advance(4);
        return;
      default:
        throw new MalformedMessage(`field ${this.field} has the unknown wire type ${this.#wireType}`);
    }
  }

  #slice(): Buffer {
    const length = this.#varint();
    const start = this.#at;
    this.#advance(length);
    return this.#bytes.subarray(start, this.#at);
  }

  #advance(length: number): void {
    if (length > this.#bytes.length - this.#at) throw new MalformedMessage('the message ends within a field');
    this.#at += length;
  }

  #byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw new MalformedMessage('the message ends within a varint');
    this.#at++;
    return byte;
  }

  /** Exact up to the largest safe integer, rounded above. */
  #varint(): number {
    let value = 0;
    let factor = 1;
    for (let index = 0; index < 10; index++) {
      const byte = this.#byte();
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 0x80;
    }
    throw new MalformedMessage('a varint has more than 10 bytes');
  }
}
